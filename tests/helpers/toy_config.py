"""A configuration with a key of every type, for the tests of `lmbase.config`."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from lmbase.config import option


@dataclass
class Inner:
    width: int = option(3, "how wide", also="breadth")
    rate: float = option(1e-4, "how fast")


@dataclass
class Config:
    data: str | list[str] = option("stdlib", "what to read")
    model: str = option("tiny", "which model", also="net")
    tokenizer: str | None = option(None, "which tokenizer")
    batch_size: PositiveInt = option(8, "items per step")
    inner: Inner = option(Inner(), "the inner part")
    quick: bool = option(False, "a short run")
    betas: tuple[float, float] = option((0.9, 0.95), "two constants")
    dtype: Literal["fp32", "bf16"] = option("fp32", "numbers")
    num_draft: int | Literal["auto"] = option("auto", "drafts")
    sizes: list[int] = option([1, 2], "some sizes")
    names: list[str] = option([], "some names")
    ends: list[str] | None = option(None, "texts that end it", prose=True)
    log_every: int = option(10, "steps between lines", may_differ=True)

    def __post_init__(self) -> None:
        if self.quick and self.batch_size > 100:
            raise ValueError("quick and batch_size > 100 exclude each other")


def write(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)
