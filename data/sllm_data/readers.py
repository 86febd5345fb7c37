"""Readers of the file formats a corpus may come in: each yields the documents of one file, and what it left out.

What cannot be read is told as a `Skip`, never turned into data. Bytes are decoded strictly; line ends and NUL bytes are
kept.

A new format is one function and one line in `READERS`; a new compression is one line in `OPENERS`.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from lmbase.text import is_unicode

# A longer text file is read in parts, cut after a line: no file has to fit into memory.
MAX_TEXT_FILE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Document:
    """A text and its name, which is unique in its corpus and the same each time: `file.jsonl:17`, `package.module`."""

    text: str
    name: str


@dataclass(frozen=True)
class Skip:
    """Something that was left out, and why. `reason` is one of few, to be counted by; `detail` is free text."""

    name: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Reader:
    """How files of one format are read."""

    read: Callable[[Path, str, str], Iterator[Document | Skip]]  # path, name in the corpus, text field
    may_be_compressed: bool = True  # `read` opens files by `open_stream`, which decompresses


def _open_zst(path: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(cast(Any, pa.input_stream(str(path), compression="zstd"))))


OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: cast(BinaryIO, gzip.GzipFile(path)),
    ".bz2": lambda path: cast(BinaryIO, bz2.BZ2File(path)),
    ".xz": lambda path: cast(BinaryIO, lzma.LZMAFile(path)),  # noqa: SIM115 (the caller closes it)
    ".zst": _open_zst,
}


def file_kind(path: Path) -> str | None:
    """The suffix that decides how `path` is read (`.jsonl` for `a.jsonl.gz`); None for a file that no reader knows."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in OPENERS:
        inner = READERS.get(suffixes[0]) if len(suffixes) == 2 else None
        return suffixes[0] if inner is not None and inner.may_be_compressed else None
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else None


def known_types() -> str:
    """The file types that can be read, as a sentence."""
    compressible = [suffix for suffix, reader in READERS.items() if reader.may_be_compressed]
    others = [suffix for suffix in READERS if suffix not in compressible]
    alone = f", and {_listed(others, 'and')} as they are" if others else ""
    return f"Known are {_listed(compressible, 'and')}, also with {_listed(list(OPENERS), 'or')} added{alone}."


def _listed(words: list[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def without_types(name: str) -> str:
    """A file's name without the suffixes that say how it is read: `wiki-valid` for `wiki-valid.jsonl.gz`."""
    while (suffix := Path(name).suffix.lower()) in READERS or suffix in OPENERS:
        name = name[: -len(suffix)]
    return name


def read_file(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    """Yield the documents of one file, in order.

    Args:
        name: the file's name inside the corpus; the documents' names begin with it.
        text_field: which field or column holds the text (not used for `.txt`).

    Raises:
        ValueError: the records have no such field; the message names those they have.
    """
    kind = file_kind(path)
    assert kind is not None, path
    try:
        yield from READERS[kind].read(path, name, text_field)
    except UnicodeDecodeError as error:
        yield Skip(name, "invalid UTF-8", str(error))
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, csv.Error) as error:
        yield Skip(name, "unreadable file", f"{type(error).__name__}: {error}")


def open_stream(path: Path) -> BinaryIO:
    """The bytes of a file, decompressed if its last suffix says that it is compressed."""
    opener = OPENERS.get(path.suffix.lower())
    return opener(path) if opener else path.open("rb")


def _read_txt(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    with open_stream(path) as stream:
        data = stream.read(MAX_TEXT_FILE_BYTES + 1)
    if len(data) <= MAX_TEXT_FILE_BYTES:
        yield Document(data.decode("utf-8-sig"), name)
        return
    # Read to the end once before the first part goes out, so that a file with a bad byte gives no data at all.
    with open_stream(path) as stream:
        decoder = codecs.getincrementaldecoder("utf-8")()
        while block := stream.read(2**20):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    with open_stream(path) as stream:
        for number, part in enumerate(_parts(stream), start=1):
            yield Document(part.decode("utf-8-sig" if number == 1 else "utf-8"), f"{name}:{number}")


def _parts(stream: BinaryIO) -> Iterator[bytes]:
    """Cut a stream of UTF-8 after the last line that fits into a part, or between characters if there is none."""
    rest = b""
    while block := rest + stream.read(MAX_TEXT_FILE_BYTES - len(rest)):
        cut = len(block)
        if len(block) == MAX_TEXT_FILE_BYTES:
            cut = block.rfind(b"\n") + 1
            if not cut:
                cut = len(block) - 1
                while block[cut] & 0xC0 == 0x80:  # a continuation byte: its character began earlier
                    cut -= 1
        yield block[:cut]
        rest = block[cut:]


def _read_jsonl(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    with open_stream(path) as stream:
        first = True
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                yield Skip(f"{name}:{number}", "invalid UTF-8", str(error))
                continue
            except (ValueError, RecursionError) as error:
                yield Skip(f"{name}:{number}", "invalid JSON", str(error))
                continue
            yield record_document(record, f"{name}:{number}", text_field, first=first)
            first = False


def _read_json(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    with open_stream(path) as stream:
        text = stream.read().decode("utf-8-sig")
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield Skip(name, "invalid JSON", str(error))
        return
    for number, record in enumerate(records if isinstance(records, list) else [records], start=1):
        yield record_document(record, f"{name}:{number}", text_field, first=number == 1)


def _read_csv(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KB, is less than a chapter
    with open_stream(path) as binary:
        # surrogateescape turns a bad byte into a lone surrogate, which valid UTF-8 never gives: it costs its row only.
        stream = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
        for number, row in enumerate(csv.DictReader(stream), start=1):
            if not is_unicode(row.get(text_field) or ""):
                yield Skip(f"{name}:{number}", "invalid UTF-8")
            else:
                yield record_document(row, f"{name}:{number}", text_field, first=number == 1)


def _read_parquet(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    with pq.ParquetFile(path) as file:
        if text_field not in file.schema_arrow.names:
            raise missing_field(file.schema_arrow.names, name, text_field)
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=[text_field]):
            for value in batch.column(0):
                number += 1
                try:
                    record = {text_field: value.as_py()}
                except UnicodeDecodeError as error:
                    yield Skip(f"{name}:{number}", "invalid UTF-8", str(error))
                    continue
                yield record_document(record, f"{name}:{number}", text_field)


READERS: dict[str, Reader] = {
    ".txt": Reader(_read_txt),
    ".jsonl": Reader(_read_jsonl),
    ".json": Reader(_read_json),
    ".csv": Reader(_read_csv),
    # compressed inside, and read from its end, which a compressed stream does not offer
    ".parquet": Reader(_read_parquet, may_be_compressed=False),
}


def record_document(record: Any, name: str, text_field: str, *, first: bool = False) -> Document | Skip:
    """The document in a record: a mapping with the text field.

    A first record without the field means a wrong `text_field`, which is an error at once; a later one is skipped.
    """
    if not isinstance(record, dict):
        return Skip(name, "not an object", f"a {type(record).__name__}")
    if text_field not in record:
        if first:
            raise missing_field(list(record), name, text_field)
        return Skip(name, f"no field {text_field!r}")
    text = record[text_field]
    return (
        Document(text, name)
        if isinstance(text, str)
        else Skip(name, "text is not a string", f"a {type(text).__name__}")
    )


def missing_field(fields: list[str], name: str, text_field: str) -> ValueError:
    """The error for records that have no field `text_field`."""
    known = ", ".join(repr(field) for field in fields if isinstance(field, str)) or "none"
    return ValueError(
        f"{name} has no field {text_field!r}; it has {known}. Name the one that holds the text: --text_field NAME."
    )
