"""What `sllm benchmark` measures: for each subset its keys, and the rows that come of them.

A subset is one class here and one line in `SUBSETS`. A key that several subsets have stands in `sllm.benchmarks.keys`.
"""

import dataclasses
import gc
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt

from lmbase.benchmarking.roofline import Machine
from lmbase.config import option
from lmbase.modeling.devices import DTYPES, moved
from lmbase.modeling.int8 import linear_layers_to_int8
from lmbase.report.rows import Row
from lmbase.text import is_unicode
from multitoken.benchmarks.replaying import Replay, measure_replay, new_replayed, read_acceptance
from multitoken.benchmarks.training_cost import Setting, measure_heads
from sllm.benchmarks.assisting import Trial, load_pair, measure_assisting
from sllm.benchmarks.cache_size import lengths_by_rule, measure_cache, measure_resident
from sllm.benchmarks.generation import Case, Contest, measure_generation
from sllm.benchmarks.keys import (
    MAX_SENTENCE_TOKENS,
    Benchmark,
    CompiledKeys,
    LengthKeys,
    Measured,
    ModelKeys,
    RawTextKeys,
    SizeKeys,
    StepKeys,
    TextKeys,
    TimedKeys,
    WritingKeys,
    open_once,
)
from sllm.benchmarks.replaying import TrainedDrafts, trained_drafts
from sllm.benchmarks.scoring import measure_scoring
from sllm.benchmarks.training import StepSize, measure_memory, measure_training
from sllm.evaluation.texts import read_texts
from sllm_data.open_data import make_processor
from sllm_data.prepared import PreparedData
from sllm_data.throughput import measure_pipeline


@dataclass
class Generate(LengthKeys, WritingKeys, CompiledKeys):
    """Writing, the SLLM beside the token-level model."""

    weights: Literal["dtype", "int8"] = option("dtype", "of the subset generate: int8, all models' in eight bits")
    batch_size: list[PositiveInt] = option([1], "texts written at once")
    drafts_from: str | None = option(None, "a trained SLLM with drafting heads: as many of its drafts are accepted")

    def cases(self) -> list[Case]:
        """Every prompt length with the first batch size, and every batch size with the first prompt length."""
        first, *longer = self.prompt_tokens
        pairs = [(first, size) for size in self.batch_size] + [(prompt, self.batch_size[0]) for prompt in longer]
        return [Case(prompt, self.new_tokens, size) for prompt, size in pairs]

    def drafts(self) -> TrainedDrafts | None:
        if self.drafts_from is None:
            return None
        texts, _ = read_texts(self.data, "test", self.text_field, None)
        return trained_drafts(self.drafts_from, texts, self.new_tokens, self.device)

    def rows(self, data: PreparedData, lengths: list[int]) -> Iterator[list[Row]]:
        if self.weights == "int8" and self.device != "cpu":
            raise ValueError(f"weights=int8 are for CPUs, and device is {self.device}: measure bf16 there.")
        dtype, source = DTYPES[self.dtype], self.drafts()
        machine = Machine(dtype, self.device)
        kind = self.dtype if self.weights == "dtype" else f"{self.dtype}, weights int8"
        common = dict(dtype=kind, device=self.device, data=source.name if source else None)
        for build in self.builds():
            lm = build.lm()
            sllm = moved((build.like(source.config) if source else build).sllm(lm), self.device, dtype).eval()
            lm = moved(lm, self.device, dtype).eval()
            if self.weights == "int8":
                linear_layers_to_int8(lm)
                sllm.write_in_int8()
            ways = source.ways if source else []
            contest = Contest(build, lm, sllm, lengths, ways, machine, self.rounds, self.compiled)
            for case in self.cases():
                yield measure_generation(contest, case, common)
            del lm, sllm, contest
            torch.compiler.reset()  # or shapes of one size would count against those of the next
            gc.collect()


@dataclass
class Train(LengthKeys, StepKeys, TimedKeys):
    """Steps of training of all models on the same text."""

    def rows(self, data: PreparedData, lengths: list[int]) -> Iterator[list[Row]]:
        machine = Machine(DTYPES[self.dtype], self.device)
        size = StepSize(self.train_tokens, self.dtype, self.device, self.rounds)
        for build in self.builds():
            yield measure_training(build, lengths, size, machine)
            gc.collect()


@dataclass
class Memory(LengthKeys):
    """Peak memory of a training step."""

    memory_sentences: PositiveInt = option(512, "of the subset memory: sentences of the text of a training step")

    QUICK = {"memory_sentences": 32}

    def rows(self, data: PreparedData, lengths: list[int]) -> Iterator[list[Row]]:
        for build in self.builds():
            yield measure_memory(build, lengths, self.memory_sentences, self.dtype, self.device)


@dataclass
class Resident(LengthKeys):
    """What a process grows by per token of context."""

    context_tokens: list[PositiveInt] = option([256, 1024, 2047], "of the subset resident: where memory is looked at")

    QUICK = {"context_tokens": [64, 128]}

    def rows(self, data: PreparedData, lengths: list[int]) -> Iterator[list[Row]]:
        for build in self.builds():
            yield measure_resident(build, lengths, self.context_tokens, self.dtype, self.device)


@dataclass
class Evaluate(LengthKeys, TimedKeys):
    """Exact scoring."""

    window_tokens: PositiveInt = option(511, "of the subset evaluate: the token-level model's windows")
    window_sentences: PositiveInt = option(48, "of the subset evaluate: the SLLM's windows")
    score_megabytes: float = option(0.3, "of the subset evaluate: about so much text is scored")

    QUICK = {"score_megabytes": 0.03}

    def rows(self, data: PreparedData, lengths: list[int]) -> Iterator[list[Row]]:
        windows, num_bytes = (self.window_tokens, self.window_sentences), int(self.score_megabytes * 1e6)
        for build in self.builds():
            own = replace(build, vocab_size=len(data.processor.tokenizer))
            yield measure_scoring(own, data, num_bytes, windows, self.device, self.rounds)


@dataclass
class Cache(ModelKeys, RawTextKeys):
    """Bytes of keys and values per token, under every rule of cutting."""

    def measure(self) -> Iterator[Measured]:
        corpus = self.raw_text()
        processor = make_processor(corpus, self.tokenizer, "sentence", MAX_SENTENCE_TOKENS)  # learns Punkt, too
        texts = [text for text in corpus.texts("test") if is_unicode(text)]
        lengths = lengths_by_rule(texts, processor)
        rows = [row for build in self.builds() for row in measure_cache(build, lengths, self.dtype)]
        digest = hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).hexdigest()
        yield rows, {"name": corpus.name, "sha256": digest}


@dataclass
class Pipeline(RawTextKeys, TimedKeys):
    """The way from text to training data."""

    rule: str = option("punctuation", "for data that are not prepared yet")

    def measure(self) -> Iterator[Measured]:
        corpus = self.raw_text()
        processor = make_processor(corpus, self.tokenizer, self.rule, MAX_SENTENCE_TOKENS)
        rows, digest = measure_pipeline(corpus, processor, Path(self.output_dir), self.rounds)
        yield rows, {"name": corpus.name, "sha256": digest}


@dataclass
class Heads(SizeKeys, StepKeys, TimedKeys):
    """What more heads cost in training."""

    num_future_tokens: list[PositiveInt] = option([1, 2, 4, 8], "numbers of heads of the subset heads")
    num_blocks: PositiveInt = option(8, "of the subset heads: blocks of trunk and heads together")

    QUICK = {"num_future_tokens": [1, 2], "num_blocks": 2}

    def measure(self) -> Iterator[Measured]:
        for size in self.size:
            shape = (self.vocab_size, self.train_tokens, self.dtype, self.device)
            settings = [Setting(size, self.num_blocks, n, *shape) for n in self.num_future_tokens]
            yield measure_heads(settings, self.rounds), None


@dataclass
class Replayed(SizeKeys, WritingKeys, CompiledKeys):
    """Drafting at other sizes, as often accepted as a trained model's."""

    acceptance_from: str | None = option(None, "of the subset replay: what `sllm drafting` wrote")
    ways: list[str] | None = option(None, "of the subset replay: only these ways of drafting, as its table names them")

    def measure(self) -> Iterator[Measured]:
        assert self.acceptance_from is not None
        drafts = read_acceptance(self.acceptance_from, self.seed)
        ways = drafts.ways
        if self.ways is not None:
            if unknown := sorted(set(self.ways) - {way.way for way in ways}):
                known = ", ".join(way.way for way in ways)
                raise ValueError(f"ways={unknown}: {drafts.model} was measured with {known}.")
            ways = [way for way in ways if way.way in self.ways]
        first = self.prompt_tokens[0]
        replay = Replay(first, self.new_tokens, self.rounds, self.dtype, self.device, self.compiled)
        for size in self.size:
            model = new_replayed(size, drafts, self.vocab_size, self.seed)
            yield measure_replay(model, size, ways, replay, drafts.model), None
            del model
            torch.compiler.reset()
            gc.collect()

    def __post_init__(self) -> None:
        if "replay" in self.subset and self.acceptance_from is None:
            raise ValueError(
                "The subset `replay` needs --acceptance_from: what `sllm drafting` wrote for a trained model."
            )


@dataclass
class Assist(ModelKeys, TextKeys, WritingKeys):
    """An SLLM that drafts for a token-level model."""

    assist_pair: list[str] | None = option(
        None, "of the subset assist: a trained token-level model and an SLLM that drafts for it"
    )
    num_guesses: list[PositiveInt] = option([4], "of the subset assist: draft tokens of a pass, at most")
    temperature: PositiveFloat | None = option(
        None, "of the subset assist: the trained token-level model's; default: greedy"
    )

    def measure(self) -> Iterator[Measured]:
        pair = load_pair(self.assist_pair, self.device)
        texts, corpus = read_texts(self.data, "test", self.text_field, None)
        trial = Trial(self.prompt_tokens[0], self.new_tokens, self.num_guesses, self.rounds, self.temperature)
        common = dict(data=corpus["name"], device=self.device)
        yield measure_assisting(pair, texts, self.builds(), trial, self.dtype, common), corpus


# In the order in which they are measured.
SUBSETS: dict[str, type[Benchmark]] = {
    "pipeline": Pipeline,
    "cache": Cache,
    "resident": Resident,
    "train": Train,
    "memory": Memory,
    "evaluate": Evaluate,
    "generate": Generate,
    "heads": Heads,
    "replay": Replayed,
    "assist": Assist,
}


# -- several at once ---------------------------------------------------------------------------------------------------


def keys_of(subsets: Sequence[str], module: str) -> type[Benchmark]:
    """A configuration class with the keys of all these subsets.

    Args:
        module: the recipe, whose docstring is shown by --help.
    """
    bases = tuple(kind for name, kind in SUBSETS.items() if name in subsets)
    return dataclass(type("Config", bases, {"__module__": module}))


def chosen_part(config: Benchmark, module: str) -> Benchmark:
    """The keys of the chosen subsets, of a configuration with the keys of all.

    Raises:
        ValueError: another subset's key was given.
    """
    chosen = keys_of(config.subset, module)
    known = {field.name for field in dataclasses.fields(chosen)}
    problems = []
    default = type(config)(subset=["generate"])
    for field in dataclasses.fields(config):
        if field.name not in known and getattr(config, field.name) != getattr(default, field.name):
            owners = [name for name, kind in SUBSETS.items() if field.name in kind.__dataclass_fields__]
            problems.append(
                f"{field.name} = {getattr(config, field.name)!r}: no key of --subset {' '.join(config.subset)}, but of "
                f"{', '.join(owners)}"
            )
    if problems:
        raise ValueError("The configuration is not valid:\n" + "\n".join(f"  {line}" for line in problems))
    return _narrowed(config, chosen)


def measure_subsets(config: Benchmark) -> Iterator[Measured]:
    """All that is asked for, in parts."""
    open_once.cache_clear()
    for name, kind in SUBSETS.items():
        if name in config.subset:
            yield from _narrowed(config, kind).measure()


def shorten(config: Benchmark) -> None:
    """Set the keys that --quick stands for."""
    for kind in type(config).__mro__:
        for key, value in vars(kind).get("QUICK", {}).items():
            setattr(config, key, value)


def _narrowed(config: Benchmark, kind: type[Benchmark]) -> Benchmark:
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(kind)})
