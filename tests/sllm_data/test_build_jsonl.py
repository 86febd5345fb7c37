"""A corpus written out as JSONL is the same corpus again."""

import importlib.util
import json
from pathlib import Path

import pytest

from sllm_data.corpora import open_corpus

PATH = Path(__file__).parents[2] / "data" / "build_jsonl.py"
SPEC = importlib.util.spec_from_file_location("build_jsonl", PATH)
assert SPEC is not None
assert SPEC.loader is not None
build_jsonl = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build_jsonl)


def test_the_corpus_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    texts = {"train": ["One.\r\nTwo \x00.", "Drei — 😀"], "valid": ["Four."], "test": ["Five.", ""]}
    for split, part in texts.items():
        lines = [json.dumps({"body": text}) for text in part]
        (source / f"{split}.jsonl").write_text("\n".join([*lines, "broken" if split == "train" else ""]))
    build_jsonl.main([str(source), str(tmp_path / "out"), "--text_field", "body"])
    corpus = open_corpus(str(tmp_path / "out"))
    assert {split: [document.text for document in corpus.read(split)] for split in corpus.splits} == texts
    first = json.loads((tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["name"] == "train.jsonl:1"
    printed = capsys.readouterr().out
    assert "train.jsonl: 2 documents" in printed
    assert "left out 1 x invalid JSON: train.jsonl:3" in printed
    assert not list((tmp_path / "out").glob("*.partial"))


def test_the_embedded_corpus_keeps_its_splits(tmp_path: Path) -> None:
    build_jsonl.main(["stdlib", str(tmp_path)])
    for split in ("train", "valid", "test"):
        written = [document.text for document in open_corpus(str(tmp_path)).read(split)]
        assert written == [document.text for document in open_corpus("stdlib").read(split)]


def test_mistakes_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*no such file"):
        build_jsonl.main([str(tmp_path / "nothing"), str(tmp_path / "out")])
