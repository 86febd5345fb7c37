"""Writing speed of a token-level model and of the SLLM on it at any size, beside what the machine allows.

Weights are random, since they do not change speed; lengths of sentences and accepted draft tokens are replayed
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
from transformers import PreTrainedModel

from lmbase.benchmarking.roofline import Machine, Shape, linear_shapes
from lmbase.benchmarking.timing import (
    COMPILED,
    Generation,
    alternate,
    compared_settings,
    drafting_columns,
    median,
    ratio_columns,
    speeds,
    time_lm,
)
from lmbase.modeling.int8 import Int8Linear
from lmbase.modeling.trunk import output_table, special_ids, trunk_of
from lmbase.report.rows import Row
from lmbase.text.padding import pad_sentences
from multitoken.benchmarks.replaying import Acceptance
from sllm.benchmarks.build import Build, random_sentences
from sllm.benchmarks.replaying import ReplayedSLLM
from sllm.evaluation.timing import time_sllm


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


@dataclass
class Contest:
    """A token-level model and the SLLM on it, and how they are measured."""

    build: Build
    lm: PreTrainedModel
    sllm: ReplayedSLLM
    lengths: Sequence[int]  # tokens of the sentences of a text, those of the prompt first
    ways: Sequence[Acceptance]  # of drafting, with how many tokens of each draft come true
    machine: Machine
    num_rounds: int
    compiled: bool = False  # everything once more with compiled steps

    @property
    def limited(self) -> bool:
        """Whether limits are measured. On a GPU the products are too short to be timed one by one; those of int8
        weights are not the machine's."""
        return self.lm.device.type == "cpu" and not any(isinstance(m, Int8Linear) for m in self.lm.modules())

    def tried(self) -> list[Acceptance]:
        """One by one, each way of drafting, and `auto` with the last, as measured and with nothing accepted."""
        plain = Acceptance("", 1, [0])
        if not self.ways:
            return [plain]
        *_, last = self.ways
        automatic = Acceptance("auto", "auto", last.counts, last.tree)
        return [plain, *self.ways, automatic, Acceptance("auto, nothing accepted", "auto", [0], last.tree)]


def measure_generation(contest: Contest, case: Case, common: dict) -> list[Row]:
    """The token-level model through Transformers' `generate`, the SLLM in each way of drafting.

    Args:
        common: columns of every row.

    Raises:
        ValueError: more sentences than the trunk has positions.
    """
    lm, sllm, lengths = contest.lm, contest.sllm, contest.lengths
    sentences = random_sentences(lengths, case.prompt_tokens, sllm.config.vocab_size, np.random.default_rng(0))
    ids = [special_ids(lm.config).opening, *(i for sentence in sentences for i in sentence)]
    flat = torch.tensor([ids] * case.batch_size, device=lm.device)  # (B,1+L)
    nested = pad_sentences([sentences] * case.batch_size, sllm.config.pad_token_id).input_ids.to(sllm.device)  # (B,S,T)
    begun = len(sentences) % len(lengths)
    to_come = [*lengths[begun:], *lengths[:begun]]
    written = _until(case.new_tokens, to_come)
    _check_positions(sllm, case, len(sentences) + len(written) + 1)

    def write(way: Acceptance, counts: Iterator[int], settings: dict) -> Generation:
        sllm.replay(to_come, counts)
        return time_sllm(sllm, nested, case.new_tokens, way.num_draft, way.tree, **settings)

    runners: dict[str, Callable[[], Generation]] = {}
    lm_name, sllm_name = contest.build.lm_name, contest.build.sllm_name
    fits = case.prompt_tokens + case.new_tokens <= lm.config.max_position_embeddings
    for kind, settings in compared_settings(contest.compiled, lm.device.type).items():
        if fits:
            runners[lm_name + kind] = functools.partial(time_lm, lm, flat, case.new_tokens, **settings)
        for way in contest.tried():
            name = sllm_name + (f", {way.way}" if way.way else "") + kind
            runners[name] = functools.partial(write, way, itertools.cycle(way.counts), settings)
    limits: dict[str, list[Limit]] = {lm_name: [], sllm_name: []}

    def measure_limits() -> None:
        machine = contest.machine.anew()
        limits[lm_name].append(lm_limit(lm, machine, case.batch_size))
        timed = written if case.batch_size > 1 else written[1:] or written  # those of the steady rate
        limits[sllm_name].append(sllm_limit(sllm, machine, case.batch_size, statistics.mean(timed)))

    found = alternate(runners, contest.num_rounds, after_each=measure_limits if contest.limited else None)
    rows = [] if fits else [_no_positions(contest, case, common)]
    for name in found:
        limit = limits.get(name.removesuffix(COMPILED)) if contest.limited else None
        rows.append(_row(name, found, limit, contest, case, common))
    return rows


def _check_positions(sllm: ReplayedSLLM, case: Case, num_positions: int) -> None:
    held = sllm.config.trunk.max_position_embeddings
    if num_positions > held:
        raise ValueError(
            f"prompt_tokens={case.prompt_tokens}: that many sentences have no position in the trunk, which has {held}. "
            "Choose fewer tokens, or rule sentence."
        )


def _row(
    name: str,
    found: dict[str, list[Generation]],
    limits: "list[Limit] | None",
    contest: Contest,
    case: Case,
    common: dict,
) -> Row:
    runs, (lm_name, sllm_name) = found[name], (contest.build.lm_name, contest.build.sllm_name)
    speed = median(speeds(runs))
    extra: dict = {"batch_size": case.batch_size, "context": case.prompt_tokens}
    references = {"speed_ratio": lm_name} | ({"plain_ratio": sllm_name} if name.startswith(sllm_name) else {})
    for prefix, other in references.items():
        if other in found and name != other:
            extra |= ratio_columns(prefix, speeds(runs), speeds(found[other]))
    extra["milliseconds_per_token"] = 1000 * case.batch_size / speed
    if limits is not None:  # what the machine could do in the same minute
        steady = [run.steady_rate or run.tokens_per_second / case.batch_size for run in runs]
        shares = [x * sum(limit.seconds.values()) for x, limit in zip(steady, limits, strict=True)]
        extra["of_limit"] = median(shares)
        extra["read_share"] = limits[0].num_bytes * median(steady) / contest.machine.read_rate
        for part in limits[0].seconds:
            extra[f"limit_ms_{part}"] = 1000 * median([limit.seconds[part] for limit in limits])
    extra["tokens_per_position"] = median([g.tokens_per_position for g in runs])
    if name.removesuffix(COMPILED) not in (lm_name, sllm_name):
        extra |= drafting_columns(runs)
    return Row(
        model=name,
        protocol=case.protocol,
        tokens_per_second=speed,
        seconds_to_first_sentence=median([g.seconds_to_first_sentence for g in runs]) if case.batch_size == 1 else None,
        kv_bytes_per_token=median([g.cache_bytes_per_token for g in runs]),
        extra=extra,
        **common,
    )


def _no_positions(contest: Contest, case: Case, common: dict) -> Row:
    note = f"has {contest.lm.config.max_position_embeddings} positions"
    extra = {"context": case.prompt_tokens, "note": note}
    return Row(contest.build.lm_name, protocol=case.protocol, extra=extra, **common)


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


def lm_limit(lm: PreTrainedModel, machine: Machine, batch_size: int) -> Limit:
    """A step for each token."""
    trunk = linear_shapes(trunk_of(lm))
    table: Counter[Shape] = Counter({cast(Shape, tuple(output_table(lm).shape)): 1})
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
