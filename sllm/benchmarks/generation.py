"""Writing speed of a token-level model and of the SLLM on it at any size, beside what the machine allows.

Weights are random, since they do not change speed; lengths of sentences and accepted draft tokens are replayed
(`sllm.benchmarks.replaying`). B texts, L tokens, S sentences, T tokens of a sentence.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Literal, NamedTuple, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmbase.benchmarking.llama_cpp import LlamaCpp, open_llama_cpp
from lmbase.benchmarking.roofline import Machine, Shape, linear_shapes
from lmbase.benchmarking.timing import COMPILED, Generation, alternate, compared_settings, known_median, speeds, time_lm
from lmbase.config import option
from lmbase.modeling.devices import DTYPES, moved
from lmbase.modeling.packed import pack_linear_layers
from lmbase.modeling.trunk import output_table, special_ids, trunk_of
from lmbase.report.rows import Row
from lmbase.text.padding import pad_sentences
from multitoken.benchmarks.measuring import Way
from multitoken.benchmarks.replaying import Drafts
from sllm.benchmarks.drafting import measured_acceptance
from sllm.benchmarks.keys import CompiledKeys, LengthKeys, WritingKeys, speed_row
from sllm.benchmarks.replaying import COPIED, Build, ReplayedSLLM, lengths_until, random_sentences
from sllm.evaluation.speed import time_sllm
from sllm.evaluation.texts import read_texts
from sllm.loading import load_model


class Models(NamedTuple):
    """The token-level model, the SLLM on it, and their names in tables."""

    lm_name: str
    lm: PreTrainedModel
    sllm_name: str
    sllm: ReplayedSLLM


@dataclass
class Generate(LengthKeys, WritingKeys, CompiledKeys):
    """Writing, the SLLM beside the token-level model."""

    weights: Literal["dtype", "int8", "int4"] = option("dtype", "of the subset generate: all models' in so many bits")
    batch_size: list[PositiveInt] = option([1], "texts written at once")
    drafts_from: str | None = option(None, "a trained SLLM with drafting heads: as many of its drafts are accepted")
    llama_cpp: str | None = option(None, "a GGUF file that llama.cpp writes with in turns (pip install 'sllm[llama]')")

    @functools.cached_property
    def drafts(self) -> Drafts | None:
        """What is replayed, if a trained model is named.

        Raises:
            ValueError: no SLLM with drafting heads, or fewer than two texts.
        """
        if self.drafts_from is None:
            return None
        loaded = load_model(self.drafts_from)
        if not loaded.by_sentence or not loaded.model.draft_heads:
            raise ValueError(
                f"drafts_from={self.drafts_from!r}: an SLLM with drafting heads is needed, as "
                "`sllm finetune-sllm --model RUN --num_future_tokens 3 --train_draft_heads_only true` makes one."
            )
        model = moved(loaded.model, self.device)
        texts, _ = read_texts(self.data, "test", self.text_field, None)
        options = {name: getattr(model.config, name) for name in COPIED}
        return Drafts(f"drafts of {loaded.name}", options, measured_acceptance(model, texts, self.new_tokens))

    @property
    def llama_name(self) -> str:
        return f"llama.cpp {Path(self.llama_cpp or '').stem}"

    def cases(self) -> list[tuple[int, int]]:
        """Every prompt length with the first batch size, and every batch size with the first prompt length."""
        first, *longer = self.prompt_tokens
        return [(first, size) for size in self.batch_size] + [(prompt, self.batch_size[0]) for prompt in longer]

    def parts(self, build: Build, lengths: Sequence[int]) -> Iterator[Callable[[], list[Row]]]:
        if self.weights != "dtype" and self.device != "cpu":
            raise ValueError(f"weights={self.weights} are for CPUs, and device is {self.device}: measure bf16 there.")
        if self.llama_cpp is not None:
            open_llama_cpp(self.llama_cpp, self.device)
        models = functools.cache(functools.partial(self.models, build))  # none where all parts are known already

        def compare(case: tuple[int, int]) -> list[Row]:
            return self.compare(models(), lengths, *case)

        for case in self.cases():
            yield functools.partial(compare, case)

    def models(self, build: Build) -> Models:
        if self.drafts:
            build = replace(build, **self.drafts.options)
        lm = build.lm()
        sllm = moved(build.sllm(lm), self.device, DTYPES[self.dtype]).eval()
        lm = moved(lm, self.device, DTYPES[self.dtype]).eval()
        if self.weights != "dtype":
            pack_linear_layers(lm, self.weights)
            sllm.write_in(self.weights)
        return Models(build.lm_name, lm, build.sllm_name, sllm)

    def ways(self) -> list[Way]:
        """One by one, each way of drafting, and `auto` with the last, as measured and with nothing accepted."""
        ways = [Way("", 1), *(self.drafts.ways if self.drafts else [])]
        if len(ways) > 1:
            last = ways[-1]
            ways += [Way("auto", "auto", last.tree, last.counts), Way("auto, nothing accepted", "auto", last.tree)]
        return ways

    def compare(self, models: Models, lengths: Sequence[int], prompt_tokens: int, batch_size: int) -> list[Row]:
        """The token-level model through Transformers' `generate`, the SLLM in each way of drafting.

        Args:
            lengths: tokens of the sentences of a text, those of the prompt first.

        Raises:
            ValueError: more sentences than the trunk has positions.
        """
        lm_name, lm, sllm_name, sllm = models
        sentences = random_sentences(lengths, prompt_tokens, sllm.config.vocab_size)
        begun = len(sentences) % len(lengths)
        to_come = [*lengths[begun:], *lengths[:begun]]
        written = lengths_until(self.new_tokens, to_come)
        held = sllm.config.trunk.max_position_embeddings
        if len(sentences) + len(written) + 1 > held:
            raise ValueError(
                f"prompt_tokens={prompt_tokens}: that many sentences have no position in the trunk, which has {held}. "
                "Choose fewer tokens, or rule sentence."
            )
        parts: dict[str, Parts] = {}
        # On a GPU the products are too short to be timed one by one; those of fewer bits are not the machine's.
        if self.device == "cpu" and self.weights == "dtype":
            timed = written if batch_size > 1 else written[1:] or written  # those of the steady rate
            parts = {lm_name: lm_parts(lm, batch_size), sllm_name: sllm_parts(sllm, batch_size, mean(timed))}
        limits: dict[str, list[dict[str, float]]] = {name: [] for name in parts}

        def measure_limits() -> None:
            machine = Machine(DTYPES[self.dtype], self.device)  # anew: what it can do may depend on who else uses it
            for name, of_model in parts.items():
                seconds = {part: times * machine.seconds(shapes, n) for part, (times, shapes, n) in of_model.items()}
                limits[name].append(seconds)

        found = alternate(self.runners(models, sentences, to_come, batch_size), self.rounds, after_each=measure_limits)
        common = self.row(
            lm_name,
            f"generate {prompt_tokens}+{self.new_tokens}" + f", batch {batch_size}" * (batch_size > 1),
            {"batch_size": batch_size, "context": prompt_tokens},
            dtype=self.dtype if self.weights == "dtype" else f"{self.dtype}, weights {self.weights}",
            data=self.drafts.model if self.drafts else None,
        )
        rows = []
        if lm_name not in found:
            note = f"has {lm.config.max_position_embeddings} positions"
            rows.append(replace(common, extra={"context": prompt_tokens, "note": note}))
        for name, runs in found.items():
            compared = {"speed_ratio": lm_name} | ({"plain_ratio": sllm_name} if name.startswith(sllm_name) else {})
            compared = {prefix: other for prefix, other in compared.items() if other in found and other != name}
            row = speed_row(found, name, common, **compared)
            row.extra["milliseconds_per_token"] = 1000 * batch_size / median(speeds(runs))
            if (plain := name.removesuffix(COMPILED)) in parts:
                row.extra |= limit_columns(runs, parts[plain], limits[plain], self.machine)
            row.extra["tokens_per_position"] = median([run.tokens_per_position for run in runs])
            row.kv_bytes_per_token = known_median(run.cache_bytes_per_token for run in runs)
            if name == self.llama_name:  # the file says what its weights are, and it tells of no cache
                row.dtype = row.kv_bytes_per_token = row.extra["tokens_per_position"] = None
            if batch_size == 1:
                row.seconds_to_first_sentence = median([run.seconds_to_first_sentence for run in runs])
            rows.append(row)
        return rows

    def runners(
        self, models: Models, sentences: list[list[int]], to_come: Sequence[int], batch_size: int
    ) -> dict[str, Callable[[], Generation]]:
        """Timed calls by the names of their rows, without the token-level model where it has too few positions."""
        lm_name, lm, sllm_name, sllm = models
        ids = [special_ids(lm.config).opening, *itertools.chain(*sentences)]
        flat = torch.tensor([ids] * batch_size, device=lm.device)  # (B,1+L)
        nested = pad_sentences([sentences] * batch_size, sllm.config.pad_token_id).input_ids.to(sllm.device)  # (B,S,T)

        def write(way: Way, counts: Iterator[int], settings: dict) -> Generation:
            sllm.replay(to_come, counts)
            return time_sllm(sllm, nested, self.new_tokens, num_draft=way.num_draft, tree=way.tree, **settings)

        runners: dict[str, Callable[[], Generation]] = {}
        for kind, settings in compared_settings(self.compiled, lm.device.type).items():
            if len(ids) - 1 + self.new_tokens <= lm.config.max_position_embeddings:
                runners[lm_name + kind] = functools.partial(time_lm, lm, flat, self.new_tokens, **settings)
            for way in self.ways():
                name = sllm_name + (f", {way.name}" if way.name else "") + kind
                runners[name] = functools.partial(write, way, itertools.cycle(way.counts), settings)
        if self.llama_cpp is not None and batch_size == 1:
            # Ids that every vocabulary has: which they are does not matter.
            prompt = [20 + i % 200 for i in ids]
            llama = LlamaCpp(self.llama_cpp, len(ids) + self.new_tokens, self.device)
            runners[self.llama_name] = functools.partial(llama.time, prompt, self.new_tokens)
        return runners


# -- limits ------------------------------------------------------------------------------------------------------------


# Weight products that one new token of each text of a batch cannot do without, by part of the model: how often, on
# average over a text, which shapes, and with how many rows.
Parts = dict[str, tuple[float, Counter[Shape], int]]


def limit_columns(
    runs: Sequence[Generation], parts: Parts, limits: Sequence[dict[str, float]], machine: Machine
) -> dict[str, float]:
    """What of the limit the rounds reached, each beside its own seconds by part, and how fast weights were read."""
    steady = [run.steady_rate or run.tokens_per_second / run.batch_size for run in runs]
    num_bytes = sum(times * machine.num_bytes(shapes) for times, shapes, _ in parts.values())
    reached = [x * sum(seconds.values()) for x, seconds in zip(steady, limits, strict=True)]
    columns = {"of_limit": median(reached), "read_share": num_bytes * median(steady) / machine.read_rate}
    return columns | {f"limit_ms_{part}": 1000 * median([seconds[part] for seconds in limits]) for part in parts}


def lm_parts(lm: PreTrainedModel, batch_size: int) -> Parts:
    """A step for each token."""
    shapes = {"trunk": linear_shapes(trunk_of(lm)), "vocabulary": _table(output_table(lm))}
    return {part: (1.0, of_part, batch_size) for part, of_part in shapes.items()}


def sllm_parts(sllm: ReplayedSLLM, batch_size: int, sentence_tokens: float) -> Parts:
    """One by one: a step for each token and for the end mark; trunk, encoder and memory once a sentence."""
    trunk = linear_shapes(sllm.trunk, cast(nn.Module, sllm.sentence_in), sllm.sentence_out, sllm.stop_head)
    encoder = linear_shapes(sllm.autoencoder.encoder)
    decoder = linear_shapes(sllm.autoencoder.decoder, without=("memory_attention.kv_proj",))
    memory = linear_shapes(sllm.autoencoder.decoder) - decoder
    once, steps = 1 / sentence_tokens, (sentence_tokens + 1) / sentence_tokens
    return {
        "trunk": (once, trunk, batch_size),
        "encoder": (once, encoder, batch_size * round(sentence_tokens)),
        "memory": (once, memory, batch_size * sllm.config.autoencoder.last_memory),
        "decoder": (steps, decoder, batch_size),
        "vocabulary": (steps, _table(sllm.get_input_embeddings().weight), batch_size),
    }


def _table(weight: Tensor) -> Counter[Shape]:
    return Counter({cast(Shape, tuple(weight.shape)): 1})
