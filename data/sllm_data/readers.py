"""Readers of the file formats a corpus may come in: each yields the documents of one file, and what it left out.

A file goes through stages, each of which tells its faults with their place: bytes that a checksum vouches for
(`archives`), text in UTF-8 (`encodings`), records, documents. What cannot be read is told as a `Skip`, never turned
into data. Line ends and NUL bytes are kept.

A new format is one function and one line in `READERS`; a new compression is one line in `archives.CODECS`.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from lmbase.text import is_unicode
from sllm_data.archives import BLOCK, CODECS, FAULTS, DamagedFile
from sllm_data.borders import last_border
from sllm_data.encodings import WrongEncoding, open_text, what_it_may_be

# A longer text file is read in parts: no file has to fit into memory.
MAX_TEXT_FILE_BYTES = 16 * 2**20
PART_WINDOW = 2**14  # characters in which a part's end is looked for
MAX_FIELD = 2**26  # characters of a CSV field: a quote that is never closed must not read on for ever
CSV_REMEDY = 'Quote fields that hold a separator, a quote or a line break, and write a quote inside twice ("", not \\")'
BOM = "\ufeff".encode()
_BETWEEN_VALUES = re.compile(r"[\s,\[\]\ufeff]*")


@dataclass(frozen=True)
class Document:
    """A text and its name, which is unique in its corpus and the same each time: `file.jsonl:17`, `package.module`."""

    text: str
    name: str
    part: int = 0  # of a text that is read in parts, its number from 1


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
    may_be_compressed: bool = True  # `read` opens files by `open_text`, which decompresses
    in_folders: bool = True  # else only where a name or a pattern asks for such files


def file_kind(path: Path, *, in_folder: bool = False) -> str | None:
    """The suffix that decides how `path` is read (`.jsonl` for `a.jsonl.gz`); None for a file that no reader knows.

    Args: in_folder: it was found in a folder, where a README or a script is no data.
    """
    kind = _suffix_read(path)
    return None if kind is None or (in_folder and not READERS[kind].in_folders) else kind


def _suffix_read(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in CODECS:
        inner = READERS.get(suffixes[0]) if len(suffixes) == 2 else None
        return suffixes[0] if inner is not None and inner.may_be_compressed else None
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else None


def known_types() -> str:
    """The file types that can be read, as a sentence."""
    of_folders = {suffix: reader for suffix, reader in READERS.items() if reader.in_folders}
    compressible = [suffix for suffix, reader in of_folders.items() if reader.may_be_compressed]
    others = [suffix for suffix in of_folders if suffix not in compressible]
    alone = f", and {_listed(others, 'and')} as they are" if others else ""
    named = [suffix for suffix in READERS if suffix not in of_folders][:3]
    also = f" Plain text such as {_listed(named, 'and')} is read where a name or pattern asks for it." if named else ""
    return f"Known are {_listed(compressible, 'and')}, also with {_listed(list(CODECS), 'or')} added{alone}.{also}"


def _listed(words: list[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def without_types(name: str) -> str:
    """A file's name without the suffixes that say how it is read: `wiki-valid` for `wiki-valid.jsonl.gz`."""
    while (suffix := Path(name).suffix.lower()) in READERS or suffix in CODECS:
        name = name[: -len(suffix)]
    return name


def read_file(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    """Yield the documents of one file, in order, and a `Skip` for whatever is no document.

    Args:
        name: the file's name inside the corpus; the documents' names begin with it.
        text_field: which field or column holds the text; `meta.text` also means `text` inside `meta`. Not for `.txt`.
    """
    kind = file_kind(path)
    assert kind is not None, path
    nothing = True
    try:
        if not path.stat().st_size:
            yield Skip(name, "empty file", "0 bytes")
            return
        for item in READERS[kind].read(path, name, text_field):
            nothing = False
            yield item
        if nothing:
            yield Skip(name, "file without a record")
    except UnicodeDecodeError as error:
        yield Skip(name, "invalid UTF-8", what_it_may_be(error))
    except WrongEncoding as error:
        yield Skip(name, "not UTF-8", str(error))
    except csv.Error as error:  # those of rows are told where they stand
        yield Skip(name, "broken quotes", f"the header: {error}. {CSV_REMEDY}")
    except DamagedFile as error:
        yield Skip(name, "unreadable file", str(error))
    except FAULTS as error:
        yield Skip(name, "unreadable file", f"{type(error).__name__}: {error}")


# -- text --------------------------------------------------------------------------------------------------------------


def _read_txt(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    with open_text(path) as stream:
        data = stream.read(MAX_TEXT_FILE_BYTES + 1)
    if len(data) <= MAX_TEXT_FILE_BYTES:
        yield Document(data.decode(), name)
        return
    # Read to the end once before the first part goes out, so that a file with a bad byte gives no data at all.
    for _ in _parts(path):
        pass
    for number, part in enumerate(_parts(path), start=1):
        yield Document(part, f"{name}:{number}", number)


def _parts(path: Path) -> Iterator[str]:
    """A long text in parts that end at a border."""
    with open_text(path) as stream:
        rest = b""
        while block := rest + stream.read(MAX_TEXT_FILE_BYTES - len(rest)):
            whole = len(block)
            if whole == MAX_TEXT_FILE_BYTES:  # more may follow: leave a character that is cut to the next part
                while whole > MAX_TEXT_FILE_BYTES - 4 and block[whole - 1] & 0xC0 == 0x80:
                    whole -= 1
                whole -= 1
            text = block[:whole].decode()
            if whole < len(block):
                text = text[: last_border(text, len(text), min(PART_WINDOW, len(text) // 2))]
            yield text
            rest = block[len(text.encode()) :]


# -- JSON: lines, an array, or values one after another, whatever the suffix says --------------------------------------


def _read_json(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    with open_text(path) as stream:
        if stream.peek(BLOCK).lstrip().startswith(b"["):  # type: ignore[attr-defined]  # it is a buffered reader
            yield from _json_values(stream, name, text_field)
            return
        first = next((line for line in stream if line.strip()), b"")
    with open_text(path) as stream:
        if _goes_on(first):
            yield from _json_values(stream, name, text_field)
        else:
            yield from _json_lines(stream, name, text_field)


def _goes_on(line: bytes) -> bool:
    """Whether a line begins a value and is right as far as it goes, so that the value has several lines."""
    text = line.decode(errors="replace").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except (ValueError, RecursionError):
        pass
    return False


def _json_lines(stream: BinaryIO, name: str, text_field: str) -> Iterator[Document | Skip]:
    number = 0
    for lines in stream:
        for line in lines.splitlines():  # several where lines end with a lone CR, which no string of JSON holds
            number += 1
            place = f"{name}:{number}"
            try:
                text = line.removeprefix(BOM).decode()  # joined files have a mark inside
                if text.strip():
                    yield _json_document(json.loads(text), text, place, text_field)
            except UnicodeDecodeError as error:
                yield Skip(place, "invalid UTF-8", what_it_may_be(error))
            except (ValueError, RecursionError) as error:
                yield Skip(place, "invalid JSON", str(error))


def _json_values(stream: BinaryIO, name: str, text_field: str) -> Iterator[Document | Skip]:
    """The elements of arrays, and values outside of them; memory holds one at a time.

    Where a value is broken nobody knows where the next one begins: the rest is left out.
    """
    reader = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
    decoder, text, start, number, depth, ended = json.JSONDecoder(), "", 0, 0, 0, False
    while True:
        between = _BETWEEN_VALUES.match(text, start)
        assert between is not None  # it matches anywhere
        start, depth = between.end(), depth + between[0].count("[") - between[0].count("]")
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            place = getattr(error, "pos", start)
            if not ended and (place > len(text) - 16 or str(error).startswith("Unterminated string")):
                more = reader.read(max(BLOCK, len(text) - start))
                text, start, ended = text[start:] + more, 0, not more
                continue
            if start < len(text) or depth:
                fault = error if start < len(text) else "the array is not closed: the file ends too early"
                yield Skip(f"{name}:{number + 1}", "invalid JSON", f"{fault}; what follows is left out")
            return
        number += 1
        if is_unicode(source := text[start:end]):
            yield _json_document(value, source, f"{name}:{number}", text_field)
        else:
            yield Skip(f"{name}:{number}", "invalid UTF-8", _why_not_utf8(source))
        start = end


def _json_document(record: Any, source: str, name: str, text_field: str) -> Document | Skip:
    if source.count(f'"{text_field}"') > 1:  # perhaps twice in one object: JSON's reader takes the last one
        pairs = json.loads(source, object_pairs_hook=list) if isinstance(record, dict) else []
        if sum(key == text_field for key, _ in pairs) > 1:
            return Skip(name, f"two fields {text_field!r}")
    return record_document(record, name, text_field)


# -- tables ------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, name: str, text_field: str, separators: str = ",;\t|") -> Iterator[Document | Skip]:
    csv.field_size_limit(MAX_FIELD)
    with open_text(path) as binary:
        # surrogateescape turns a bad byte into a lone surrogate, which valid UTF-8 never gives: it costs its row only.
        stream = io.TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape", newline="")
        blank = 0
        while (head := stream.readline()) and not head.strip():
            blank += 1
        if not head:
            return
        names = {separator: next(csv.reader([head], delimiter=separator)) for separator in separators}
        fitting = [separator for separator in separators if text_field in names[separator]]
        separator = fitting[0] if fitting else max(names, key=lambda s: len(names[s]))
        header = names[separator]
        if not fitting:
            yield _no_field(header, name, text_field)
        elif header.count(text_field) > 1:
            yield Skip(name, f"two columns {text_field!r}", "rename one")
        else:
            yield from _csv_rows(chain([head], stream), separator, name, header.index(text_field), blank)


def _csv_rows(lines: Iterable[str], separator: str, name: str, column: int, before: int) -> Iterator[Document | Skip]:
    """Documents of the rows behind the header, in front of which there are `before` lines."""
    line = ""

    def noted() -> Iterator[str]:
        nonlocal line
        for line in lines:  # noqa: UP028 (the last one is looked at below)
            yield line

    rows = csv.reader(noted(), delimiter=separator, strict=True)
    header, number = next(rows), 0
    while True:
        start, place = before + rows.line_num + 1, f"{name}:{number + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            detail = f"line {start}: {error}. {CSV_REMEDY}"
            number += 1
            if before + rows.line_num == start and line.count('"') % 2 == 0:
                yield Skip(place, "broken quotes", detail)
                continue
            # Where the quote belongs that opens here, or the one that is missing, nobody knows.
            yield Skip(place, "broken quotes", f"{detail}. The rest of the file is left out")
            return
        if row is None:
            return
        if not row:  # a blank line
            continue
        number += 1
        if len(row) != len(header):
            detail = f"line {start}: {len(row)} fields where the header has {len(header)}. {CSV_REMEDY}"
            yield Skip(place, "row of another length than the header", detail)
        elif row == header:
            yield Skip(place, "header inside the file", f"line {start}")
        elif not is_unicode(row[column]):
            yield Skip(place, "invalid UTF-8", f"line {start}, {_why_not_utf8(row[column])}")
        else:
            yield Document(row[column], place)


def _why_not_utf8(text: str) -> str:
    """What is said of a text whose bad bytes became lone surrogates."""
    try:
        return text.encode("utf-8", errors="surrogateescape").decode()  # a surrogate that was spelt in the file
    except UnicodeDecodeError as error:
        return what_it_may_be(error)


# -- Parquet -----------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, name: str, text_field: str) -> Iterator[Document | Skip]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        column = text_field if text_field in names else text_field.partition(".")[0]
        leaves = [file.schema.column(i).path for i in range(len(file.schema.names))]
        if names.count(column) != 1 or not any(f"{leaf}.".startswith(f"{text_field}.") for leaf in leaves):
            yield _no_field(names, name, text_field)
            return
        number = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            try:
                for _ in file.iter_batches(batch_size=256, row_groups=[group], columns=[text_field]):
                    pass  # a damaged group gives nothing at all
            except FAULTS as error:
                yield Skip(f"{name}:{number + 1}", "unreadable file", f"rows to {number + rows}: {error}")
                number += rows
                continue
            for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=[text_field]):
                for value in batch.column(column):
                    number += 1
                    try:
                        record = {column: value.as_py()}
                    except UnicodeDecodeError as error:
                        yield Skip(f"{name}:{number}", "invalid UTF-8", what_it_may_be(error))
                        continue
                    yield record_document(record, f"{name}:{number}", text_field)


PLAIN_TEXT = (
    ".md .py .log .rst .tex .c .cc .cpp .cs .go .h .hpp .java .js .kt .lua .php .pl .pyi .r .rb .rs .scala .sh .sql "
    ".swift .toml .ts .yaml .yml"
)
READERS: dict[str, Reader] = {
    ".txt": Reader(_read_txt),
    ".jsonl": Reader(_read_json),
    ".ndjson": Reader(_read_json),
    ".json": Reader(_read_json),
    ".csv": Reader(_read_csv),
    ".tsv": Reader(partial(_read_csv, separators="\t")),
    # compressed inside, and read from its end, which a compressed stream does not offer
    ".parquet": Reader(_read_parquet, may_be_compressed=False),
    **dict.fromkeys(PLAIN_TEXT.split(), Reader(_read_txt, in_folders=False)),
}


# -- records -----------------------------------------------------------------------------------------------------------


def record_document(record: Any, name: str, text_field: str) -> Document | Skip:
    """The document in a record: a mapping that has the text field, or, for `meta.text`, `text` in a mapping `meta`."""
    if not isinstance(record, dict):
        return Skip(name, "not an object", f"a {type(record).__name__}")
    text = record
    for key in [text_field] if text_field in record else text_field.split("."):
        if not isinstance(text, dict) or key not in text:
            return _no_field(list(record), name, text_field)
        text = text[key]
    if not isinstance(text, str):
        return Skip(name, "text is not a string", f"a {type(text).__name__}")
    return Document(text, name)


def _no_field(fields: list[str], name: str, text_field: str) -> Skip:
    known = ", ".join(repr(field[:40]) for field in fields[:20] if isinstance(field, str)) or "none"
    return Skip(name, f"no field {text_field!r}", f"it has {known}")
