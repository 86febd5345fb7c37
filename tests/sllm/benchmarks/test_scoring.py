"""Scoring is timed on the opening of a split, for a model of any family."""

import json

import pytest

from sllm.benchmarks.build import Build
from sllm.benchmarks.keys import open_once
from sllm.benchmarks.scoring import measure_scoring, opening


@pytest.fixture
def data(tmp_path):
    (tmp_path / "text").mkdir()
    for split in ("train", "test"):
        lines = [json.dumps({"text": f"{split} {i}: one, two. Three!"}) for i in range(9)]
        (tmp_path / "text" / f"{split}.jsonl").write_text("\n".join(lines))
    open_once.cache_clear()
    return open_once(str(tmp_path / "text"), "text", "bytes", "punctuation", str(tmp_path / "out"))


def test_an_opening_is_cut_behind_a_sentence(data):
    whole, part = opening(data, "test", 10**6), opening(data, "test", 40)
    assert len(whole.documents) == 9
    assert "".join(whole.texts).startswith("".join(part.texts))
    assert 40 <= sum(part.sizes) < 60
    assert part.sizes == [sum(map(len, sentences)) for sentences in part.documents]  # a token is a byte here


def test_rows_of_scoring_name_the_family(data):
    rows = measure_scoring(Build("qwen3-tiny", 260), data, 100, (20, 4), "cpu", 1)
    assert [row.model for row in rows] == ["QWEN3 qwen3-tiny", *["SLLM qwen3-tiny"] * 2]
    assert rows[0].extra["speed_ratio"] == 1
    assert all(row.extra["seconds_per_megabyte"] > 0 for row in rows)
