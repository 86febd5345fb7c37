"""Keys of `sllm benchmark`: those of every subset, and groups that several subsets share."""

import functools
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from lmbase.benchmarking.roofline import Machine
from lmbase.benchmarking.timing import Generation, drafting_columns, ratio_columns, speeds
from lmbase.config import Seed, option
from lmbase.modeling.devices import DTYPES
from lmbase.report.rows import Row
from multitoken.benchmarks.replaying import FIRST_WORD
from sllm.benchmarks.replaying import MEMORY, Build
from sllm_data.corpora import Corpus, open_corpus
from sllm_data.open_data import is_prepared, open_data
from sllm_data.prepared import PreparedData

VOCABULARY = 50272
MAX_SENTENCE_TOKENS = 64

Measured = tuple[list[Row], dict[str, str] | None]  # rows, and what names the text they were measured on
Part = Callable[[], Measured]  # measured when it is called: what is known already is passed over
SubsetName = Literal[
    "generate", "train", "memory", "resident", "evaluate", "cache", "pipeline", "heads", "replay", "assist", "plan"
]


@dataclass
class Benchmark:
    """Keys of every subset."""

    subset: list[SubsetName] = option(["generate", "train"], "what is measured; --help shows the keys of those named")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    seed: Seed = option(0, "of the random weights and token ids")
    quick: bool = option(False, "64 tokens each way, little text, few heads and two rounds")
    output_dir: str = option("runs/benchmark", "where metrics.json, table.md and plots.html go")

    QUICK: ClassVar[dict[str, Any]] = {}  # what --quick sets, of the keys that a class adds

    def measure(self) -> Iterator[Part]:
        """What gives the rows, part after part, in the same order each time."""
        raise NotImplementedError


def measured(rows: Callable[[], list[Row]], corpus: dict[str, str] | None = None) -> Measured:
    """Rows, and what names their text."""
    gc.collect()  # the models of the part before
    return rows(), corpus


# -- groups of keys ----------------------------------------------------------------------------------------------------


@dataclass
class TimedKeys(Benchmark):
    rounds: PositiveInt = option(5, "timed rounds of each model, after a warm-up")

    QUICK = {"rounds": 2}


@dataclass
class TextKeys(Benchmark):
    data: str | list[str] = option(
        "stdlib", "where text and sentence lengths come from: a prepared folder, stdlib, hub:NAME, files"
    )
    text_field: str = option("text", "the field of a record that holds the text")


@dataclass
class RawTextKeys(TextKeys):
    tokenizer: str = option("bpe:8192", "for data that are not prepared yet")
    text_megabytes: PositiveFloat = option(8.0, "of each split, about so much text goes through the pipeline or is cut")

    QUICK = {"text_megabytes": 0.2}

    def raw_text(self) -> Corpus:
        """The first `text_megabytes` of each split."""
        specs = [self.data] if isinstance(self.data, str) else self.data
        if any(map(is_prepared, specs)):
            raise ValueError(
                f"data={specs}: cut already, and the subsets `pipeline` and `cache` do that; give the raw text."
            )
        return open_corpus(self.data, self.text_field, max_bytes=int(self.text_megabytes * 1e6))


@dataclass
class SizeKeys(Benchmark):
    size: list[str] = option(["small"], "tiny, small, opt-125m, opt-350m, opt-1.3b; of another family as in llama-tiny")
    vocab_size: Annotated[int, Field(gt=FIRST_WORD)] = option(
        VOCABULARY, "of all models, whatever the data's tokenizer has"
    )
    dtype: Literal["fp32", "bf16"] = option(
        "bf16", "of weights in generation, of the computation in training; texts are scored in fp32 always"
    )

    QUICK = {"vocab_size": 4096}

    @functools.cached_property
    def machine(self) -> Machine:
        """Its rates are measured once for all sizes."""
        return Machine(DTYPES[self.dtype], self.device)

    def row(self, model: str, protocol: str, extra: dict[str, Any], **columns) -> Row:
        """A row of what was measured in this dtype on this device, unless `columns` says otherwise."""
        return Row(model, protocol=protocol, extra=extra, **{"dtype": self.dtype, "device": self.device} | columns)


@dataclass
class ModelKeys(SizeKeys):
    num_encoder_layers: int = option(1, "1 to 4")
    num_decoder_layers: int = option(1, "1 to 4")
    num_memory_states: PositiveInt = option(1, "trunk states that the decoder reads; with drafts_from, that model's")
    num_memory_tokens: NonNegativeInt = option(0, "tokens before its sentence that the decoder reads; likewise")
    num_memory_vectors: NonNegativeInt = option(0, "vectors of earlier sentences that it reads; likewise")

    def builds(self) -> list[Build]:
        """Which models, for each size."""
        names = ("vocab_size", "num_encoder_layers", "num_decoder_layers", *MEMORY, "seed")
        options = {name: getattr(self, name) for name in names}
        return [Build(size, **options) for size in self.size]


@dataclass
class LengthKeys(ModelKeys, TextKeys):
    """Of subsets that replay the lengths of real sentences."""

    tokenizer: str = option("bpe:8192", "for data that are not prepared yet")
    rule: str = option("punctuation", "for data that are not prepared yet")

    def measure(self) -> Iterator[Part]:
        lengths = np.diff(self.prepared.split("test").sentence_tokens).tolist()
        if not lengths:
            raise ValueError(f"{self.prepared.name} has no test sentences, whose lengths are replayed.")
        for build in self.builds():
            for part in self.parts(build, lengths):
                yield functools.partial(measured, part, {"name": self.prepared.name, "sha256": self.prepared.hash})
            torch.compiler.reset()  # or shapes of one size would count against those of the next

    @functools.cached_property
    def prepared(self) -> PreparedData:
        texts: dict[str, Any] = {name: getattr(self, name) for name in ("text_field", "tokenizer", "rule")}
        return open_data(self.data, max_sentence_tokens=MAX_SENTENCE_TOKENS, output_dir=self.output_dir, **texts)

    def parts(self, build: Build, lengths: list[int]) -> Iterator[Callable[[], list[Row]]]:
        """What gives the rows of one size.

        Args:
            lengths: tokens of the sentences of a text.
        """
        raise NotImplementedError


# -- keys that several subsets have ------------------------------------------------------------------------------------


@dataclass
class StepKeys(Benchmark):
    train_tokens: PositiveInt = option(2047, "tokens of text in a training step; by default a whole window")

    QUICK = {"train_tokens": 512}


@dataclass
class WritingKeys(TimedKeys):
    prompt_tokens: list[PositiveInt] = option(
        [256], "of the prompt; several: speed over context (replay, assist: the 1st)"
    )
    new_tokens: PositiveInt = option(256, "tokens written")

    QUICK = {"prompt_tokens": [64], "new_tokens": 64}


@dataclass
class CompiledKeys(Benchmark):
    compiled: bool = option(
        False, "of generate and replay: also with caches of fixed size and compiled steps, which takes minutes"
    )


def speed_row(found: Mapping[str, Sequence[Generation]], name: str, common: Row, **baselines: str) -> Row:
    """The row of one of those that wrote in turns: speed, and what drafts brought where there were any.

    Args:
        common: what all rows have.
        baselines: by the prefix of its columns, whose speed each round is compared with.
    """
    runs, extra = found[name], dict(common.extra)
    for prefix, other in baselines.items():
        extra |= ratio_columns(prefix, speeds(runs), speeds(found[other]))
    return replace(common, model=name, tokens_per_second=median(speeds(runs)), extra=extra | drafting_columns(runs))
