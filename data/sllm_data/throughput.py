"""How fast text becomes training data: cutting, tokenising, and `prepare` from end to end, in MB (10^6 bytes) of UTF-8.

Cutting and tokenising are timed on one core, on the train split in memory; `prepare` with all its processes, from
reading the corpus to a finished folder, its tokenizer given. All run in turns, after a warm-up on the first document.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from lmbase.report.rows import Row
from lmbase.text import RULES, is_unicode, segment
from lmbase.text.processor import SentenceProcessor
from sllm_data.corpora import Corpus
from sllm_data.prepare import num_cpus, prepare


def measure_pipeline(
    corpus: Corpus, processor: SentenceProcessor, folder: Path, num_rounds: int
) -> tuple[list[Row], str]:
    """A row for each rule of `segment`, one for tokenising whole documents, one for `prepare`; and the text's SHA-256.

    Args:
        folder: where `prepare` is to write, made if it is not there; what it writes is deleted again.

    Raises:
        ValueError: no rounds, or a train split without text.
        OSError: `folder` cannot be written, or its disk is full.
    """
    if num_rounds < 1:
        raise ValueError(f"rounds={num_rounds}: a figure needs one at least.")
    texts = [document.text for document in corpus.read("train") if document.text and is_unicode(document.text)]
    if not texts:
        raise ValueError(f"The train split of {corpus.name!r} holds no text to time anything on.")
    size = sum(len(text.encode()) for text in texts)
    stages: dict[str, Callable[[Sequence[str]], object]] = {
        f"segment {rule}": partial(_segment, rule=rule, punkt=processor.punkt if rule == processor.rule else None)
        for rule in RULES
    }
    stages["tokenise"] = partial(_tokenise, processor)
    for stage in stages.values():
        stage(texts[:1])
    rates: dict[str, list[float]] = {name: [] for name in [*stages, "prepare"]}
    total, digest = 0, ""  # of all splits
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(num_rounds):
        for name, stage in stages.items():
            started = time.perf_counter()
            stage(texts)
            rates[name].append(size / 1e6 / (time.perf_counter() - started))
        with TemporaryDirectory(".partial", ".", folder) as beside:  # `clean_up` knows it by that, if this is killed
            started = time.perf_counter()
            data = prepare(corpus, processor, beside, progress=False)
            seconds = time.perf_counter() - started
            total, digest = sum(counts["bytes"] for counts in data.statistics.values()), data.hash
            rates["prepare"].append(total / 1e6 / seconds)
    rows = [
        Row(
            model=name,
            data=corpus.name,
            protocol="pipeline",
            device="cpu",
            bytes=total if name == "prepare" else size,
            extra={
                "megabytes_per_second": statistics.median(found),
                "megabytes_per_second_low": min(found),
                "megabytes_per_second_high": max(found),
                "cores": num_cpus() if name == "prepare" else 1,
            },
        )
        for name, found in rates.items()
    ]
    return rows, digest


def _segment(texts: Sequence[str], rule: str, punkt: dict | None) -> None:
    for text in texts:
        segment(text, rule=rule, punkt=punkt)


def _tokenise(processor: SentenceProcessor, texts: Sequence[str]) -> None:
    with _one_thread():
        processor.codec.encode_batch(texts)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The tokenizers library reads this variable at every call."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
