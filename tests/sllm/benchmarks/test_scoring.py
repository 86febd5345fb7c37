"""Scoring is timed on the opening of a split, for a model of any family."""

import json
from typing import Any

import pytest

from sllm.benchmarks.replaying import Build
from sllm.benchmarks.scoring import Evaluate, opening


@pytest.fixture
def subset(tmp_path):
    (tmp_path / "text").mkdir()
    for split in ("train", "test"):
        lines = [json.dumps({"text": f"{split} {i}: one, two. Three!"}) for i in range(9)]
        (tmp_path / "text" / f"{split}.jsonl").write_text("\n".join(lines))
    folders: dict[str, Any] = dict(data=str(tmp_path / "text"), output_dir=str(tmp_path / "out"))
    keys: dict[str, Any] = dict(window_tokens=20, window_sentences=4, score_megabytes=1e-4, rounds=1, device="cpu")
    return Evaluate(tokenizer="bytes", **folders, **keys)


def test_an_opening_is_cut_behind_a_sentence(subset):
    data = subset.prepared
    whole, part = opening(data, 10**6), opening(data, 40)
    assert len(whole) == 9
    flat, begun = ([i for sentences in text for sentence in sentences for i in sentence] for text in (whole, part))
    assert data.processor.decode(flat).startswith(data.processor.decode(begun))
    assert 40 <= len(begun) < 60  # a token is a byte here
    assert data.processor.decode(begun).endswith((".", "!", " "))


def test_rows_of_scoring_name_the_family(subset):
    rows = subset.rows(Build("qwen3-tiny", 8))
    assert [row.model for row in rows] == ["QWEN3 qwen3-tiny", *["SLLM qwen3-tiny"] * 2]
    assert rows[0].extra["speed_ratio"] == 1
    assert all(row.extra["seconds_per_megabyte"] > 0 for row in rows)
    assert {row.bytes for row in rows} == {row.tokens for row in rows}  # a token is a byte here
    assert rows[0].protocol == "evaluate 20 tokens, 4 sentences: full window"
