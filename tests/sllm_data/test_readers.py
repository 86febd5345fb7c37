"""Readers: every format and compression gives back what was written, and what cannot be read is told."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import TEXTS, csv_bytes, everything, jsonl, skipped

from sllm_data import readers
from sllm_data.corpora import open_corpus
from sllm_data.readers import READERS, Document, Reader, Skip, file_kind, known_types, open_stream, without_types


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


def test_known_types_are_those_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    own = (".txt", ".jsonl", ".json", ".csv", ".parquet")
    monkeypatch.setattr(readers, "READERS", {suffix: READERS[suffix] for suffix in own})
    assert known_types() == (
        "Known are .txt, .jsonl, .json and .csv, also with .gz, .bz2, .xz or .zst added, and .parquet as they are."
    )


@pytest.mark.parametrize(
    ("name", "kind", "without"),
    [
        ("a.jsonl.gz", ".jsonl", "a"),
        ("A.TXT", ".txt", "A"),
        ("wiki-valid.v2.csv.zst", ".csv", "wiki-valid.v2"),
        ("a.parquet", ".parquet", "a"),
        ("a.parquet.gz", None, "a"),
        ("notes.docx", None, "notes.docx"),
        ("gz", None, "gz"),
        (".txt", None, ".txt"),
    ],
)
def test_suffixes_say_how_a_file_is_read(name: str, kind: str | None, without: str) -> None:
    assert file_kind(Path(name)) == kind
    assert without_types(name) == without


def read_paragraphs(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    """Documents that stand between lines of stars."""
    with open_stream(path) as stream:
        for number, text in enumerate(stream.read().decode().split("***\n"), start=1):
            yield Document(text, f"{name}:{number}")


def test_a_new_reader_is_a_function_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, ".stars", Reader(read_paragraphs))
    (tmp_path / "train.stars.gz").write_bytes(gzip.compress(b"One.\n***\nTwo.\n"))
    (tmp_path / "valid.stars").write_text("Three.\n")
    corpus = open_corpus(str(tmp_path))
    assert [document.text for document in corpus.read("train")] == ["One.\n", "Two.\n"]
    assert [document.name for document in corpus.read("valid")] == ["valid.stars:1"]
    (tmp_path / "nothing.here").write_text("x")
    with pytest.raises(ValueError, match=r" and \.stars, also with"):
        open_corpus(str(tmp_path / "nothing.here"))
