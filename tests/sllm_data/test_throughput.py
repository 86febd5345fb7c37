"""The pipeline is timed stage by stage, and leaves nothing behind."""

import os
from pathlib import Path

import pytest
from small_corpora import TEXTS, corpus_of

from lmbase.text import RULES
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from sllm_data.throughput import measure_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")


@pytest.fixture(scope="module")
def processor() -> SentenceProcessor:
    return SentenceProcessor(load_tokenizer("bytes"), "punctuation", 32)


def test_each_stage_has_a_row(tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    rows, digest = measure_pipeline(corpus_of([*TEXTS[:5], "", "\ud800"]), processor, tmp_path / "out", num_rounds=2)
    assert [row.model for row in rows] == [*(f"segment {rule}" for rule in RULES), "tokenise", "prepare"]
    train = sum(len(text.encode()) for text in TEXTS[:5])
    assert [row.bytes for row in rows] == [*[train] * (len(rows) - 1), train + len("Held out.")]
    assert all(0 < row.extra["megabytes_per_second_low"] <= row.extra["megabytes_per_second_high"] for row in rows)
    assert len(digest) == 64
    assert list((tmp_path / "out").iterdir()) == []
    assert "TOKENIZERS_PARALLELISM" not in os.environ


def test_nothing_to_time_is_refused(tmp_path: Path, processor: SentenceProcessor) -> None:
    with pytest.raises(ValueError, match="rounds=0"):
        measure_pipeline(corpus_of(TEXTS), processor, tmp_path, num_rounds=0)
    with pytest.raises(ValueError, match="holds no text"):
        measure_pipeline(corpus_of([""]), processor, tmp_path, num_rounds=1)
