"""The files of ours that a text, a training sample and a written sentence pass through, in the order of first call."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import numpy as np
from rooms import MODULES, ROOT
from tiny import make_processor, make_sllm

from sllm import SLLM
from sllm_data.corpora import open_corpus
from sllm_data.datasets import SentenceWindowDataset
from sllm_data.prepare import prepare
from sllm_data.prepared import PreparedData

TEXT = "The cat sat down. It slept, and then it left."
OURS = {str(path) for path in MODULES.values()}


@contextmanager
def called_files() -> Iterator[list[str]]:
    """Collects the files of ours whose functions are called: paths below the project's folder."""
    found: dict[str, str] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED:  # a function, no module or class being made
            path = _real(code.co_filename)
            if path in OURS:
                found.setdefault(path, str(Path(path).relative_to(ROOT)))

    paths: list[str] = []
    sys.setprofile(note)
    try:
        yield paths
    finally:
        sys.setprofile(None)
        paths += found.values()


@cache
def _real(name: str) -> str:
    return str(Path(name).resolve())


def way_of(first: Callable[[], object]) -> list[str]:
    """The files that a call passes through. It runs twice: the first time may import modules, which does not count."""
    first()
    with called_files() as paths:
        first()
    return paths


@cache
def ways() -> dict[str, list[str]]:
    """For each of the three ways its files."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").mkdir()
        (folder / "text" / "train.txt").write_text(TEXT, encoding="utf-8")

        def read_text() -> PreparedData:
            with TemporaryDirectory(dir=folder) as output:
                corpus = open_corpus(str(folder / "text"))
                prepare(corpus, make_processor(), output, num_workers=1, progress=False)
                return PreparedData.load(output)

        prepared = way_of(read_text)
        data = prepare(open_corpus(str(folder / "text")), make_processor(), folder / "data", progress=False)
        model = make_sllm(stop_bias=-100.0)  # the text goes on
        dataset = SentenceWindowDataset(data.split("train"), model.config.pad_token_id, model.config.max_sentences)
        return {
            "prepare": prepared,
            "train": way_of(lambda: model(**dataset.batch(np.array([0]))).loss),
            "generate": way_of(lambda: _one_sentence(model)),
        }


def _one_sentence(model: SLLM) -> None:
    assert model.generate(text=TEXT, max_new_sentences=1).num_new_tokens[0] > 0
