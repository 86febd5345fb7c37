"""Readers: every format and compression gives back what was written, and what cannot be read is told."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import PACKERS, TEXTS, csv_bytes, everything, jsonl, skipped

from sllm_data import readers
from sllm_data.corpora import open_corpus
from sllm_data.readers import (
    READERS,
    Document,
    Reader,
    Skip,
    file_kind,
    known_types,
    open_text,
    read_file,
    without_types,
)


@pytest.mark.parametrize("compression", PACKERS)
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_records_come_back_as_written(tmp_path: Path, kind: str, compression: str) -> None:
    data = {".jsonl": jsonl, ".csv": csv_bytes, ".json": lambda t: json.dumps([{"text": x} for x in t]).encode()}[kind](
        TEXTS
    )
    path = tmp_path / f"data{kind}{compression}"
    path.write_bytes(PACKERS[compression](data))
    assert everything(open_corpus(str(path))) == sorted(TEXTS)


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": [*TEXTS, None], "n": list(range(5))}), tmp_path / "data.parquet")
    corpus = open_corpus(str(tmp_path / "data.parquet"), text_field="body")
    assert everything(corpus) == sorted(TEXTS)
    assert skipped(corpus) == {"text is not a string": ["data.parquet:5 (a NoneType)"]}


def test_text_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    text = "First\r\nsecond\x00\rthird\n\n" + "x" * 10_000_000  # also a very long line
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    corpus = open_corpus(str(tmp_path / "train.txt"))
    assert corpus.splits == ("train",)
    assert [(d.name, d.text) for d in corpus.read("train")] == [("train.txt", text)]


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


def test_parquet_without_the_field_inside_is_told(tmp_path: Path) -> None:
    lists = pa.array([[{"text": "x"}]], pa.list_(pa.struct({"text": pa.string()})))
    for name, column in {"lacks": pa.array([{"body": "x"}]), "text": pa.array(["x"]), "lists": lists}.items():
        pq.write_table(pa.table({"meta": column}), tmp_path / f"{name}.parquet")
        with pytest.raises(ValueError, match=r"no field 'meta.text'.*'meta'.*--text_field"):
            open_corpus(str(tmp_path / f"{name}.parquet"), "meta.text")
    both = {"meta": pa.array([{"text": "in"}]), "meta.text": pa.array(["at the top"])}
    pq.write_table(pa.table(both), tmp_path / "both.parquet")
    assert [d.text for d in open_corpus(str(tmp_path / "both.parquet"), "meta.text").read_whole()] == ["at the top"]


def test_known_types_are_those_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    own = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
    monkeypatch.setattr(readers, "READERS", {suffix: READERS[suffix] for suffix in own})
    assert known_types() == (
        "Known are .txt, .jsonl, .ndjson, .json, .csv and .tsv, also with .gz, .bz2, .xz or .zst added, "
        "and .parquet as they are."
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
    with open_text(path) as stream:
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


def items_of(path: Path, data: bytes, text_field: str = "text") -> tuple[list[str], dict[str, str]]:
    """Texts, and what was left out: names with their reasons and details."""
    path.write_bytes(data)
    items = list(read_file(path, path.name, text_field))
    texts = [item.text for item in items if isinstance(item, Document)]
    return texts, {item.name: f"{item.reason}: {item.detail}" for item in items if isinstance(item, Skip)}


def test_A7_row_longer_than_header(tmp_path: Path) -> None:
    texts, skips = items_of(tmp_path / "a.csv", b"text\nfirst\nHello, world\nfine\n")
    assert texts == ["first", "fine"]
    assert "line 3: 2 fields where the header has 1. Quote fields" in skips["a.csv:2"]
    texts, skips = items_of(tmp_path / "a.tsv", b"text\tn\nshort\nfine\t1\n")
    assert texts == ["fine"]
    assert "line 2: 1 fields" in skips["a.tsv:1"]


def test_A7_quotes_behind_backslashes(tmp_path: Path) -> None:
    texts, skips = items_of(tmp_path / "a.csv", b'text,n\n"He said \\"hi\\" to me",1\nfine,2\n')
    assert texts == ["fine"]
    assert "broken quotes: line 2" in skips["a.csv:1"]
    assert 'twice ("", not \\")' in skips["a.csv:1"]


def test_A8_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    for rest in (b"third row\n", b"third row\n" + b'"quoted, well", 1\n' * 3):
        texts, skips = items_of(tmp_path / "a.csv", b'text\ngood row\n"He said hello\nsecond row\n' + rest)
        assert texts == ["good row"]
        assert "broken quotes: line 3" in skips["a.csv:2"]
        assert "rest of the file is left out" in skips["a.csv:2"]


@pytest.mark.parametrize("header", [b'text\t"n"n\t0', b"text," + b"n" * 2000, b'"text\n'])
def test_A8_a_header_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bytes) -> None:
    monkeypatch.setattr(readers, "MAX_FIELD", 1000)
    texts, skips = items_of(tmp_path / "a.csv", header + b"\none\n")
    assert texts == []
    assert list(skips) == ["a.csv"]


def test_A8_a_field_without_end_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_FIELD", 1000)
    texts, skips = items_of(tmp_path / "a.csv", b'text\ngood\n"open\n' + b"row\n" * 1000)
    assert texts == ["good"]
    assert "field larger than field limit" in skips["a.csv:2"]


ARRAY = b'[{"text": "one", "n": [1, {"text": "no"}]},\n {"text": "two"}]'
PRETTY = b'{\n  "text": "one"\n}\n{\n  "text": "two"\n}\n'


@pytest.mark.parametrize("compression", PACKERS)
@pytest.mark.parametrize("kind", [".json", ".jsonl", ".ndjson"])
@pytest.mark.parametrize(
    "data",
    [
        b'{"text":"one"}\n{"text":"two"}\n',
        b'{"text":"one"}\r{"text":"two"}',
        b'\r\n{"text":"one"}\r\n\r\n{"text":"two"}\r\n',
        ARRAY,
        b"\n " + json.dumps(json.loads(ARRAY), indent=4).encode(),
        PRETTY,
    ],
    ids=["lines", "lone CR", "CRLF", "array", "pretty array", "pretty objects"],
)
def test_A9_json_is_read_as_what_it_is(tmp_path: Path, data: bytes, kind: str, compression: str) -> None:
    assert items_of(tmp_path / f"a{kind}{compression}", PACKERS[compression](data)) == (["one", "two"], {})


def test_A9_what_breaks_off_is_told_and_what_was_whole_is_kept(tmp_path: Path) -> None:
    for data in (ARRAY[:-5], ARRAY[:-1], PRETTY[:-9]):
        texts, skips = items_of(tmp_path / "a.json", data)
        assert texts[0] == "one"
        assert len(skips) == 1
    # a line that is broken is no value over several lines
    for line in (b'{"text": "half\n', b'{"text": "half,\n', b"{'text':\n"):
        texts, skips = items_of(tmp_path / "a.jsonl", line + b'{"text": "fine"}\n')
        assert texts == ["fine"]
        assert list(skips) == ["a.jsonl:1"]
    assert items_of(tmp_path / "a.json", b"[]")[1] == {"a.json": "file without a record: "}
    assert "not closed" in items_of(tmp_path / "a.json", b"[" * 100_000)[1]["a.json:1"]


def test_a_value_of_any_length_is_read_from_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK", 7)
    records = [{"text": f'\\u00fc {i} " [,] é😀' * (i % 5), "n": [i, True, None]} for i in range(50)]
    texts, skips = items_of(tmp_path / "a.json", json.dumps(records, indent=1).encode())
    assert (texts, skips) == ([record["text"] for record in records], {})


def test_A13_the_same_name_twice_is_told(tmp_path: Path) -> None:
    assert items_of(tmp_path / "a.csv", b"text,n,text\na,1,b\n") == ([], {"a.csv": "two columns 'text': rename one"})
    data = b'{"text": "a", "text": "b"}\n{"text": "c", "of": {"text": "d"}}\n'
    assert items_of(tmp_path / "a.jsonl", data) == (["c"], {"a.jsonl:1": "two fields 'text': "})


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("semicolon.csv", b"text;n\nHello, you;1\nb;2\n"),
        ("tab.csv", b"n\ttext\n1\tHello, you\n2\tb\n"),
        ("bar.csv", b"n|text\n1|Hello, you\n2|b\n"),
        ("a.tsv", b"n\ttext\r\n1\tHello, you\r\n2\tb"),
        ("quoted.tsv", b'n\ttext\n1\t"Hello, you"\n2\tb'),
        ("blank.csv", b'\n\r\n\ntext\n"Hello, you"\n\nb\n'),
        ("cr.csv", b'text,n\r"Hello, you",1\rb,2\r'),
        ("joined.csv", b'text,n\n"Hello, you",1\ntext,n\nb,2\n'),
        ("crlf.csv", b'text,n\r\n"Hello, you",1\r\nb,2\r\n'),
    ],
)
def test_A13_tables_of_all_sorts_are_read(tmp_path: Path, name: str, data: bytes) -> None:
    texts, skips = items_of(tmp_path / name, data)
    assert texts == ["Hello, you", "b"]
    assert skips == ({"joined.csv:2": "header inside the file: line 3"} if name == "joined.csv" else {})


def test_A13_a_field_inside_a_field(tmp_path: Path) -> None:
    data = b'{"meta": {"text": "inside"}}\n{"meta.text": "outside"}\n{"meta": "no"}\n'
    texts, skips = items_of(tmp_path / "a.jsonl", data, "meta.text")
    assert texts == ["inside", "outside"]
    assert skips == {"a.jsonl:3": "no field 'meta.text': it has 'meta'"}
    pq.write_table(pa.table({"meta": [{"text": "inside", "n": 1}, None], "n": [1, 2]}), tmp_path / "a.parquet")
    texts, skips = items_of(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes(), "meta.text")
    assert texts == ["inside"]
    assert skips == {"a.parquet:2": "no field 'meta.text': it has 'meta'"}


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet", "a.json.gz", "a.txt.zst"])
def test_A13_a_file_of_no_bytes_is_named(tmp_path: Path, name: str) -> None:
    assert items_of(tmp_path / name, b"") == ([], {name: "empty file: 0 bytes"})


def test_a_damaged_group_of_parquet_gives_nothing(tmp_path: Path) -> None:
    texts = [f"A text of some length, number {i}." for i in range(90)]
    table = pa.table({"text": texts})
    options = dict(
        row_group_size=30, data_page_size=100, write_page_checksum=True, compression="none", use_dictionary=False
    )
    pq.write_table(table, tmp_path / "a.parquet", **options)
    data = (tmp_path / "a.parquet").read_bytes().replace(b"number 55.", b"number 56.")
    found, skips = items_of(tmp_path / "a.parquet", data)
    assert found == texts[:30] + texts[60:]
    assert list(skips) == ["a.parquet:31"]
    assert "rows to 60" in skips["a.parquet:31"]
