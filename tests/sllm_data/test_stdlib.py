"""The embedded corpus: docstrings, read and never executed, the same each time."""

from itertools import chain
from pathlib import Path

import pytest

from sllm_data.corpora import open_corpus
from sllm_data.stdlib import read_stdlib


def test_stdlib_corpus() -> None:
    corpus = open_corpus("stdlib")
    documents = {split: list(corpus.read(split)) for split in ("train", "valid", "test")}
    sizes = {split: sum(len(d.text.encode()) for d in part) for split, part in documents.items()}
    total = sum(sizes.values())
    assert 1_200_000 < total < 4_000_000
    assert all(0.03 < sizes[split] / total < 0.06 for split in ("valid", "test"))
    names = [d.name for part in documents.values() for d in part]
    assert len(set(names)) == len(names)
    tops = [{d.name.split(".")[0] for d in part} for part in documents.values()]
    assert sum(map(len, tops)) == len(set().union(*tops))  # no module is in two splits
    assert {"json", "pydoc_data"} <= set().union(*tops)
    assert not {"test", "site-packages", "numpy", "pytest"} & set().union(*tops)
    assert corpus.name.startswith("stdlib-3.")


def test_stdlib_corpus_drops_duplicates_and_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sllm_data.stdlib.SMALLEST_BYTES", 0)
    (tmp_path / "first.py").write_text('"""Shared."""\nraise SystemExit\ndef f():\n    """Of f."""\n')
    (tmp_path / "package" / "test").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").write_text(
        'class A:\n    """Shared."""\n    def g(self):\n        "Of g."\n'
    )
    (tmp_path / "package" / "test" / "x.py").write_text('"""A test."""')
    (tmp_path / "broken.py").write_text("def (:")
    name, splits = read_stdlib(str(tmp_path))
    assert sorted(chain.from_iterable(splits.values())) == [("first", "Shared.\n\nOf f."), ("package", "Of g.")]
    read_stdlib.cache_clear()
    assert read_stdlib(str(tmp_path)) == (name, splits)
    (tmp_path / "second.py").write_text('"""Another version."""')
    read_stdlib.cache_clear()
    assert read_stdlib(str(tmp_path))[0] != name


def test_installation_without_sources_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without its sources"):
        read_stdlib(str(tmp_path))
