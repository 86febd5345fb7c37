"""Corpora: every format and compression, splits, what is left out, and the embedded corpus."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllm_data import corpora, readers
from sllm_data.corpora import Corpus, open_corpus
from sllm_data.readers import Document, Skip
from sllm_data.stdlib import read_stdlib

TEXTS = [
    "One.\r\nTwo, with CRLF.",
    "A NUL \x00 byte and \u200f\u05d0\u05d1.",
    "Ünï — 😀 e\u0301",
    'quotes " and, commas\n\nlines',
]


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)).encode()


def csv_bytes(texts: list[str]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerows([["n", "text"], *([i, text] for i, text in enumerate(texts))])
    return stream.getvalue().encode()


def everything(corpus: Corpus) -> list[str]:
    return sorted(document.text for split in corpus.splits for document in corpus.read(split))


def skipped(corpus: Corpus) -> dict[str, list[str]]:
    everything(corpus)
    together = corpora.SkipLog()
    for log in corpus.skipped.values():
        together.update(log.to_dict())
    return together.names


@pytest.mark.parametrize("compression", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_records_come_back_as_written(tmp_path: Path, kind: str, compression: str) -> None:
    data = {".jsonl": jsonl, ".csv": csv_bytes, ".json": lambda t: json.dumps([{"text": x} for x in t]).encode()}[kind](
        TEXTS
    )
    pack: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    pack[".zst"] = lambda data: pa.Codec("zstd").compress(data, asbytes=True)
    path = tmp_path / f"data{kind}{compression}"
    path.write_bytes(pack[compression](data))
    assert everything(open_corpus(str(path))) == sorted(TEXTS)


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": [*TEXTS, None], "n": list(range(5))}), tmp_path / "data.parquet")
    corpus = open_corpus(str(tmp_path / "data.parquet"), text_field="body")
    assert everything(corpus) == sorted(TEXTS)
    assert skipped(corpus) == {"text is not a string": ["data.parquet:5 (a NoneType)"]}


def test_concatenated_zstd_frames_are_read_to_the_end(tmp_path: Path) -> None:
    codec = pa.Codec("zstd")
    frames = [codec.compress(jsonl([text]), asbytes=True) for text in TEXTS]
    (tmp_path / "data.jsonl.zst").write_bytes(b"".join(frames))
    assert everything(open_corpus(str(tmp_path / "data.jsonl.zst"))) == sorted(TEXTS)


def test_text_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    text = "First\r\nsecond\x00\rthird\n\n" + "x" * 10_000_000  # also a very long line
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    corpus = open_corpus(str(tmp_path / "book.txt"))
    assert corpus.splits == ("train",)
    assert [(d.name, d.text) for d in corpus.read("train")] == [("book.txt", text)]


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.sampled_from("ab\n\r é漢😀"), max_size=120))
def test_parts_of_a_large_text_file_lose_nothing(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("large") / "book.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "MAX_TEXT_FILE_BYTES", 16)
        items = list(readers.read_file(path, "book.txt", "text"))
    assert "".join(item.text for item in items if isinstance(item, Document)) == text
    assert len({item.name for item in items}) == len(items)
    assert all(len(item.text.encode()) <= 16 for item in items if isinstance(item, Document))


def test_bad_byte_late_in_a_large_text_file_gives_no_data_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_TEXT_FILE_BYTES", 16)
    (tmp_path / "book.txt").write_bytes(b"good line\n" * 100 + b"bad \xff")
    items = list(readers.read_file(tmp_path / "book.txt", "book", "text"))
    assert [item.reason for item in items if isinstance(item, Skip)] == ["invalid UTF-8"]
    assert len(items) == 1


def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("Good.")
    (tmp_path / "latin.txt").write_bytes("Düne".encode("latin-1"))
    (tmp_path / "notes.docx").write_bytes(b"PK")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(jsonl(TEXTS))[:-12])
    (tmp_path / "lines.jsonl").write_bytes(
        b'{"text": "Fine."}\n{"text": "half\n\n[1]\n{"other": 1}\n{"text": 7}\n{"text": "\xff"}\n' + b"[" * 100_000
    )
    (tmp_path / "rows.csv").write_bytes(b"text,n\nfine row,1\nbad \xff row,2\n")
    (tmp_path / ".hidden.txt").write_text("Not mine.")
    corpus = open_corpus(str(tmp_path))
    texts = everything(corpus)
    assert {"Good.", "Fine.", "fine row"} <= set(texts)
    assert all(text in ["Good.", "Fine.", "fine row", *TEXTS] for text in texts)
    names = {reason: sorted(name.split(" (")[0] for name in names) for reason, names in skipped(corpus).items()}
    assert names == {
        "invalid UTF-8": ["latin.txt", "lines.jsonl:7", "rows.csv:2"],
        "unknown file type": ["notes.docx"],
        "unreadable file": ["broken.parquet", "cut.jsonl.gz"],
        "invalid JSON": ["lines.jsonl:2", "lines.jsonl:8"],
        "not an object": ["lines.jsonl:4"],
        "no field 'text'": ["lines.jsonl:5"],
        "text is not a string": ["lines.jsonl:6"],
    }


def test_wrong_text_field_is_told_at_once_with_the_fields_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x", "title": "y"}\n')
    with pytest.raises(ValueError, match=r"no field 'text'.*'body', 'title'.*--text_field"):
        open_corpus(str(tmp_path / "a.jsonl"))
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="'body'"):
        open_corpus(str(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("files", "spec", "message"),
    [
        ({}, "none/*.txt", "no such file"),
        ({"a.pdf": b"x"}, "a.pdf", r"no reader for this file type.*\.parquet"),
        ({"a.pdf": b"x"}, "", "no file to read there"),
        ({"a.parquet.gz": b"x"}, "a.parquet.gz", "no reader"),
        ({"a.txt": b"\xff"}, "a.txt", r"no document that can be read.*1 x invalid UTF-8: a\.txt"),
        ({"a.jsonl": b""}, "a.jsonl", "no document that can be read"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path: Path, files: dict[str, bytes], spec: str, message: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        open_corpus(str(tmp_path / spec))


def test_names_of_files_and_folders_make_splits(tmp_path: Path) -> None:
    for name in ["train.txt", "wiki-validation.txt", "dev_2.txt", "test/a.txt", "latest.txt", "contest/b.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    corpus = open_corpus(str(tmp_path))
    assert {split: {d.text for d in corpus.read(split)} for split in corpus.splits} == {
        "train": {"train.txt", "latest.txt", "contest/b.txt"},
        "valid": {"wiki-validation.txt", "dev_2.txt"},
        "test": {"test/a.txt"},
    }
    with pytest.raises(ValueError, match="no split 'valid', only train"):
        open_corpus(str(tmp_path / "train.txt")).read("valid").__next__()


def test_several_specs_and_patterns_name_each_file_once(tmp_path: Path) -> None:
    for name in ["a/x.txt", "b/x.txt"]:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    corpus = open_corpus([str(tmp_path / "a"), str(tmp_path / "*" / "x.txt"), str(tmp_path / "a" / "x.txt")])
    assert [d.name for d in corpus.read("train")] == ["a/x.txt", "b/x.txt"]
    with pytest.raises(ValueError, match="cannot be joined"):
        open_corpus(["stdlib", str(tmp_path)])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 30, 3000])
def test_documents_without_splits_are_dealt_out_by_their_names(tmp_path: Path, count: int) -> None:
    (tmp_path / "data.jsonl").write_bytes(jsonl([str(i) for i in range(count)]))
    corpus = open_corpus(str(tmp_path / "data.jsonl"))
    parts = {split: [d.text for d in corpus.read(split)] for split in corpus.splits}
    assert sorted(chain.from_iterable(parts.values())) == sorted(str(i) for i in range(count))
    assert all(parts.values())
    assert list(parts) == (["train"] if count < 3 else ["train", "valid", "test"])
    if count == 3000:
        assert 10 < len(parts["valid"]) < 60
        assert 10 < len(parts["test"]) < 60
        # A document stays where it is when others are added.
        (tmp_path / "data.jsonl").write_bytes(jsonl([str(i) for i in range(count + 500)]))
        assert set(parts["test"]) <= {d.text for d in open_corpus(str(tmp_path / "data.jsonl")).read("test")}


def test_max_bytes_reads_the_first_part(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(jsonl(["x" * 100] * 50))
    corpus = open_corpus(str(tmp_path / "train.jsonl"), max_bytes=1000)
    assert len(list(corpus.read("train"))) == 10
    assert corpus.fingerprint != open_corpus(str(tmp_path / "train.jsonl")).fingerprint


def test_hub_datasets_are_streamed_through_the_datasets_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "small"
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_bytes(jsonl([f"{split} {i}" for i in range(3)]))
    corpus = open_corpus(f"hub:{folder}")
    assert corpus.name == "small"
    assert corpus.splits == ("train", "valid")
    assert [d.text for d in corpus.read("valid")] == [f"validation {i}" for i in range(3)]
    with pytest.raises(ValueError, match="no field 'body'"):
        open_corpus(f"hub:{folder}", text_field="body")
    with pytest.raises(ValueError, match="could not be opened"):
        open_corpus(f"hub:{tmp_path / 'nowhere'}")


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


def test_long_lists_of_skips_stay_short() -> None:
    log = corpora.SkipLog()
    for i in range(1000):
        log.add(Skip(f"n{i}", "bad"))
    log.update(log.to_dict())
    assert log.counts == {"bad": 2000}
    assert len(log.names["bad"]) == corpora.SKIPPED_NAMES_KEPT
    assert str(log) == "2000 x bad: n0, n1, n2 ..."
