"""The texts cut by hand: their files, the script that scores rules on them, and the score that was reached."""

import importlib.util
import json
from pathlib import Path

import pytest

from lmbase.report.rows import read_metrics
from lmbase.text import choose_rule

PATH = Path(__file__).parents[2] / "data" / "score_cuts.py"
SPEC = importlib.util.spec_from_file_location("score_cuts", PATH)
assert SPEC is not None
assert SPEC.loader is not None
score_cuts = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(score_cuts)

TEXTS, LINES = (score_cuts.read_texts(name) for name in ("texts.jsonl", "lines.jsonl"))


def test_the_set_is_whole() -> None:
    languages = [row["language"] for row in TEXTS]
    assert len(TEXTS) >= 200
    assert len(LINES) >= 40
    assert sum(languages.count(language) >= 12 for language in set(languages)) >= 12
    for row in TEXTS:
        assert "".join(score_cuts.hand_cut(row, "punctuation")) == "".join(row["sentence"])
    for part in (TEXTS, LINES):
        assert 0.3 < sum(row["held_out"] for row in part) / len(part) < 0.35


@pytest.mark.parametrize(
    ("rule", "exact", "held_out"), [("punctuation", 341, 112), ("sentence", 340, 111), ("line", 51, 17)]
)
def test_the_score_reached_is_held(rule: str, exact: int, held_out: int) -> None:
    rows = LINES if rule == "line" else TEXTS
    cut = score_cuts.our_rule(rule)
    assert score_cuts.score(rows, rule, cut).exact_texts >= exact
    assert score_cuts.score([row for row in rows if row["held_out"]], rule, cut).exact_texts >= held_out


def test_auto_tells_lines_from_prose() -> None:
    right = [choose_rule("".join(row["line"])) == row["auto"] for row in LINES]
    right += [choose_rule("".join(row["sentence"])) == "punctuation" for row in TEXTS]
    assert sum(right) >= 399


def test_a_score_counts_texts_and_cuts() -> None:
    rows = [
        {"language": "en", "kind": "x", "held_out": False, "sentence": ["A b.", " C d.", " E."]},
        {"language": "en", "kind": "y", "held_out": True, "sentence": ["F g."], "punctuation": ["F", " g."]},
    ]
    found = score_cuts.score(rows, "sentence", lambda text, language: [text[:5], text[5:]])
    assert (found.texts, found.exact_texts) == (2, 1)
    assert found.f1 == pytest.approx(2 * 1 / (1 + 2))
    exact = score_cuts.score(rows, "punctuation", lambda text, language: text.replace(" ", "\0 ").split("\0"))
    assert exact.exact == 0.5


def test_the_script_writes_rows(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(score_cuts, "SPEED_BYTES", 1000)
    monkeypatch.setattr(score_cuts, "splitters", lambda: [("whole", lambda text, language: [text])])
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"text": "He left. She stayed. " * 100}) + "\n", encoding="utf-8")
    score_cuts.main(["--output_dir", str(tmp_path), "--data", str(corpus)])
    rows = {row.model: row.extra for row in read_metrics(tmp_path)["rows"]}
    assert rows["sentence"]["exact"] > rows["whole"]["exact"]
    assert rows["de"]["texts"] >= 12
    assert rows["punctuation"]["megabytes_per_second"] > 0
