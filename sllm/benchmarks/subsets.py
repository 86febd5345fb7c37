"""What `sllm benchmark` measures: for each subset a class with its keys, which makes the rows that come of them.

A subset is one class and one line in `SUBSETS`. A key that several subsets have stands in `sllm.benchmarks.keys`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmbase.config import option
from sllm.benchmarks.assisting import Assist
from sllm.benchmarks.cache_size import Cache, Resident
from sllm.benchmarks.drafting import Replayed
from sllm.benchmarks.generation import Generate
from sllm.benchmarks.keys import MAX_SENTENCE_TOKENS, Benchmark, Measured, Part, RawTextKeys, TimedKeys
from sllm.benchmarks.planned import Planned
from sllm.benchmarks.scoring import Evaluate
from sllm.benchmarks.training import Heads, Memory, Train
from sllm_data.open_data import make_processor
from sllm_data.throughput import measure_pipeline


@dataclass
class Pipeline(RawTextKeys, TimedKeys):
    """The way from text to training data."""

    rule: str = option("punctuation", "for data that are not prepared yet")

    def measure(self) -> Iterator[Part]:
        yield self.measured

    def measured(self) -> Measured:
        corpus = self.raw_text()
        processor = make_processor(corpus, self.tokenizer, self.rule, MAX_SENTENCE_TOKENS)
        rows, digest = measure_pipeline(corpus, processor, Path(self.output_dir), self.rounds)
        return rows, {"name": corpus.name, "sha256": digest}


# In the order in which they are measured.
SUBSETS: dict[str, type[Benchmark]] = {
    "pipeline": Pipeline,
    "cache": Cache,
    "resident": Resident,
    "train": Train,
    "memory": Memory,
    "plan": Planned,
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


def parts_of(config: Benchmark) -> Iterator[tuple[str, Part]]:
    """All that is asked for, in parts with names."""
    for name, kind in SUBSETS.items():
        if name in config.subset:
            for number, part in enumerate(_narrowed(config, kind).measure(), start=1):
                yield f"{name} {number}", part


def shorten(config: Benchmark) -> None:
    """Set the keys that --quick stands for."""
    for kind in type(config).__mro__:
        for key, value in vars(kind).get("QUICK", {}).items():
            setattr(config, key, value)


def _narrowed(config: Benchmark, kind: type[Benchmark]) -> Benchmark:
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(kind)})
