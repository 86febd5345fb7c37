"""Writing speed of OPT and of the SLLM on it at any size, beside what the machine allows.

Weights are random, since they do not change speed; lengths of sentences and accepted guesses are replayed
(`sllm.benchmarks.replaying`). B texts, L tokens, S sentences, T tokens of a sentence.
"""

import functools
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import OPTForCausalLM

from lmbase.benchmarking.roofline import Machine, Shape, linear_shapes
from lmbase.benchmarking.timing import (
    COMPILED,
    Generation,
    alternate,
    compared_settings,
    median,
    pairwise_ratio,
    time_opt,
)
from lmbase.modeling.int8 import Int8Linear
from lmbase.report.rows import Row
from lmbase.text.padding import pad_sentences
from multitoken.benchmarks.replaying import FIRST_WORD, Acceptance
from sllm.benchmarks.replaying import ReplayedSLLM
from sllm.evaluation.speed import time_sllm


@dataclass(frozen=True)
class Names:
    """Of the rows that others are compared with."""

    opt: str
    sllm: str


@dataclass(frozen=True)
class Case:
    """Prompts of so many tokens, so many new ones, for so many texts at once."""

    prompt_tokens: int
    new_tokens: int
    batch_size: int

    @property
    def protocol(self) -> str:
        batch = f", batch {self.batch_size}" if self.batch_size > 1 else ""
        return f"generate {self.prompt_tokens}+{self.new_tokens}{batch}"


def random_sentences(
    lengths: Sequence[int], num_tokens: int, vocab_size: int, rng: np.random.Generator
) -> list[list[int]]:
    """Sentences of random ids with the given lengths, over and over, `num_tokens` in all (the last is cut to fit)."""
    sentences: list[list[int]] = []
    missing = num_tokens
    while missing > 0:
        length = min(lengths[len(sentences) % len(lengths)], missing)
        sentences.append(rng.integers(FIRST_WORD, vocab_size, length).tolist())
        missing -= length
    return sentences


@dataclass
class Contest:
    """An OPT and the SLLM on it, and how they are measured."""

    size: str
    opt: OPTForCausalLM
    sllm: ReplayedSLLM
    lengths: Sequence[int]  # tokens of the sentences of a text, those of the prompt first
    ways: Sequence[Acceptance]  # of drafting, with how many guesses of each draft come true
    machine: Machine
    num_rounds: int
    compiled: bool = False  # everything once more with compiled steps


def measure_generation(contest: Contest, case: Case, common: dict) -> list[Row]:
    """OPT through Transformers' `generate`, the SLLM one by one, in each way of drafting, and `auto` with the last.

    Args:
        common: columns of every row.

    Raises:
        ValueError: more sentences than the trunk has positions.
    """
    opt, sllm, lengths, ways = contest.opt, contest.sllm, contest.lengths, contest.ways
    vocabulary = sllm.config.vocab_size
    sentences = random_sentences(lengths, case.prompt_tokens, vocabulary, np.random.default_rng(0))
    ids = [opt.config.bos_token_id, *(i for sentence in sentences for i in sentence)]
    flat = torch.tensor([ids] * case.batch_size, device=opt.device)  # (B,1+L)
    nested = pad_sentences([sentences] * case.batch_size, sllm.config.pad_token_id).input_ids.to(sllm.device)  # (B,S,T)
    begun = len(sentences) % len(lengths)
    to_come = [*lengths[begun:], *lengths[:begun]]
    written = _until(case.new_tokens, to_come)
    if len(sentences) + len(written) + 1 > sllm.config.trunk.max_position_embeddings:
        raise ValueError(
            f"prompt_tokens={case.prompt_tokens}: that many sentences have no position in the trunk, which has "
            f"{sllm.config.trunk.max_position_embeddings}. Choose fewer tokens, or rule sentence."
        )
    plain = Acceptance("", 1, [0])
    automatic = [Acceptance("auto", "auto", ways[-1].counts, ways[-1].tree)] if ways else []
    worst = [Acceptance("auto, nothing accepted", "auto", [0], ways[-1].tree)] if ways else []

    def write(way: Acceptance, counts: Iterator[int], settings: dict) -> Generation:
        sllm.replay(to_come, counts)
        return time_sllm(sllm, nested, case.new_tokens, way.num_draft, way.tree, **settings)

    runners: dict[str, Callable[[], Generation]] = {}
    names = Names(f"OPT {contest.size}", f"SLLM {contest.size}")
    fits = case.prompt_tokens + case.new_tokens <= opt.config.max_position_embeddings
    for kind, settings in compared_settings(contest.compiled, opt.device.type).items():
        if fits:
            runners[names.opt + kind] = functools.partial(time_opt, opt, flat, case.new_tokens, **settings)
        for way in (plain, *ways, *automatic, *worst):
            name = names.sllm + (f", {way.way}" if way.way else "") + kind
            runners[name] = functools.partial(write, way, itertools.cycle(way.counts), settings)
    limits: dict[str, list[Limit]] = {names.opt: [], names.sllm: []}

    def measure_limits() -> None:
        machine = contest.machine.anew()
        limits[names.opt].append(opt_limit(opt, machine, case.batch_size))
        timed = written if case.batch_size > 1 else written[1:] or written  # those of the steady rate
        limits[names.sllm].append(sllm_limit(sllm, machine, case.batch_size, statistics.mean(timed)))

    # On a GPU the products are too short to be timed one by one; those of int8 weights are not the machine's.
    limited = opt.device.type == "cpu" and not any(isinstance(module, Int8Linear) for module in opt.modules())
    found = alternate(runners, contest.num_rounds, after_each=measure_limits if limited else None)
    rows = [] if fits else [_no_positions(names.opt, opt, case, common)]
    for name in found:
        limit = limits[name.removesuffix(COMPILED)] if limited and name.removesuffix(COMPILED) in limits else None
        rows.append(_row(name, found, names, limit, contest.machine, case, common))
    return rows


def _row(
    name: str,
    found: dict[str, list[Generation]],
    names: Names,
    limits: "list[Limit] | None",
    machine: Machine,
    case: Case,
    common: dict,
) -> Row:
    runs = found[name]
    speed = median([g.tokens_per_second for g in runs])
    extra: dict = {"batch_size": case.batch_size, "context": case.prompt_tokens}
    references = {"speed_ratio": names.opt} | ({"plain_ratio": names.sllm} if name.startswith(names.sllm) else {})
    for prefix, other in references.items():
        if other in found and name != other:
            ratio, low, high = pairwise_ratio(runs, found[other])
            extra |= {prefix: ratio, f"{prefix}_low": low, f"{prefix}_high": high}
    extra["milliseconds_per_token"] = 1000 * case.batch_size / speed
    if limits is not None:  # what the machine could do in the same minute
        speeds = [run.steady_rate or run.tokens_per_second / case.batch_size for run in runs]
        shares = [x * sum(limit.seconds.values()) for x, limit in zip(speeds, limits, strict=True)]
        extra["of_limit"] = median(shares)
        extra["read_share"] = limits[0].num_bytes * median(speeds) / machine.read_rate
        for part in limits[0].seconds:
            extra[f"limit_ms_{part}"] = 1000 * median([limit.seconds[part] for limit in limits])
    extra["tokens_per_position"] = median([g.tokens_per_position for g in runs])
    if runs[0].tokens_per_forward is not None and name.removesuffix(COMPILED) not in (names.opt, names.sllm):
        extra["tokens_per_forward"] = median([g.tokens_per_forward or 0.0 for g in runs])
    return Row(
        model=name,
        protocol=case.protocol,
        tokens_per_second=speed,
        seconds_to_first_sentence=median([g.seconds_to_first_sentence for g in runs]) if case.batch_size == 1 else None,
        kv_bytes_per_token=median([g.cache_bytes_per_token for g in runs]),
        extra=extra,
        **common,
    )


def _no_positions(name: str, opt: OPTForCausalLM, case: Case, common: dict) -> Row:
    note = f"has {opt.config.max_position_embeddings} positions"
    return Row(name, protocol=case.protocol, extra={"context": case.prompt_tokens, "note": note}, **common)


def _until(num_tokens: int, lengths: Sequence[int]) -> list[int]:
    """The first sentences that have so many tokens together."""
    found: list[int] = []
    while sum(found) < num_tokens:
        found.append(min(lengths[len(found) % len(lengths)], num_tokens - sum(found)))
    return found


# -- limits ------------------------------------------------------------------------------------------------------------


@dataclass
class Limit:
    """What one new token of each text of a batch needs at least, on average over a text."""

    seconds: dict[str, float]  # by part of the model: time of its weight products, each measured alone
    num_bytes: float  # of the weights that are read for it


def opt_limit(opt: OPTForCausalLM, machine: Machine, batch_size: int) -> Limit:
    trunk = linear_shapes(opt.model)
    table: Counter[Shape] = Counter({cast(Shape, tuple(opt.get_output_embeddings().weight.shape)): 1})
    seconds = {"trunk": machine.seconds(trunk, batch_size), "vocabulary": machine.seconds(table, batch_size)}
    return Limit(seconds, machine.num_bytes(trunk) + machine.num_bytes(table))


def sllm_limit(sllm: ReplayedSLLM, machine: Machine, batch_size: int, sentence_tokens: float) -> Limit:
    """One by one: a step for each token and for the end mark; trunk, encoder and memory once a sentence."""
    decoder = linear_shapes(sllm.autoencoder.decoder, without=("memory_attention.kv_proj",))
    table: Counter[Shape] = Counter({cast(Shape, tuple(sllm.get_input_embeddings().weight.shape)): 1})
    trunk = linear_shapes(sllm.trunk, cast(nn.Module, sllm.sentence_in), sllm.sentence_out, sllm.stop_head)
    encoder = linear_shapes(sllm.autoencoder.encoder)
    memory = linear_shapes(sllm.autoencoder.decoder) - decoder
    steps = (sentence_tokens + 1) / sentence_tokens
    seconds = {
        "trunk": machine.seconds(trunk, batch_size) / sentence_tokens,
        "encoder": machine.seconds(encoder, batch_size * round(sentence_tokens)) / sentence_tokens,
        "memory": machine.seconds(memory, batch_size * sllm.config.autoencoder.memory_size) / sentence_tokens,
        "decoder": steps * machine.seconds(decoder, batch_size),
        "vocabulary": steps * machine.seconds(table, batch_size),
    }
    per_sentence = machine.num_bytes(trunk) + machine.num_bytes(encoder) + machine.num_bytes(memory)
    per_step = machine.num_bytes(decoder) + machine.num_bytes(table)
    return Limit(seconds, per_sentence / sentence_tokens + steps * per_step)
