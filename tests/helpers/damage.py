"""Files of every format, damaged at random: what is read of them must have been in the whole file."""

import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_files import PACKERS, csv_bytes, jsonl

from sllm_data import archives
from sllm_data.readers import Document, read_file

TRUE = [f'Text {i} says "hello, {i * 7919 % 1000}"\nin {"very " * (i % 9)}many words; ünï.' for i in range(300)]
TRUE_SET = frozenset(TRUE)


def parquet(texts: list[str]) -> bytes:
    """With the checksums of pages, which are optional: without them a changed letter cannot be seen."""
    stream = io.BytesIO()
    table = pa.table({"text": texts, "n": list(range(len(texts)))})
    pq.write_table(table, stream, write_page_checksum=True, row_group_size=40, data_page_size=512)
    return stream.getvalue()


FORMATS: dict[str, Callable[[list[str]], bytes]] = {
    ".jsonl": jsonl,
    ".ndjson": jsonl,
    ".json": lambda texts: json.dumps([{"text": text} for text in texts], indent=1).encode(),
    ".csv": csv_bytes,
    ".tsv": lambda texts: csv_bytes(texts, delimiter="\t"),
    ".txt": lambda texts: "\n\n".join(texts).encode(),
}


def members(kind: str) -> list[bytes]:
    """A file of `TRUE` in three pieces."""
    data = FORMATS[kind](TRUE)
    third = len(data) // 3
    return [data[:third], data[third : 2 * third], data[2 * third :]]


def packed(kind: str, compression: str) -> bytes:
    """A file of `TRUE`, its compressed form in several members."""
    return b"".join(map(PACKERS[compression], members(kind)))


def was_there(text: str, kind: str) -> bool:
    """Whether a document was in the file. An archive cut just between members is whole, as far as can be known."""
    if kind != ".txt":
        return text in TRUE_SET
    rest = text.encode()
    for member in members(kind):
        rest = rest.removeprefix(member)
    return not rest


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bits flipped, a piece cut out, the end cut off, or a piece put where it does not belong."""
    place = draw.randrange(len(data))
    size = draw.choice([1, 8, 100, len(data) // 5])
    match draw.randrange(4):
        case 0:
            found = bytearray(data)
            for _ in range(draw.choice([1, 1, 1, 5])):
                found[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            return bytes(found)
        case 1:
            return data[:place] + data[place + size :]
        case 2:
            return data[:place]
        case _:
            start = draw.randrange(len(data))
            return data[:place] + data[start : start + size] + data[place:]


def wrong_documents(folder: Path, number: int, seed: int) -> Iterator[str]:
    """Damage `number` files, read them in small blocks, and name those that give a document they did not hold.

    Plain text, and tables and JSON that are not compressed, have nothing to know a flipped bit by: they have to be read
    without an exception.
    """
    draw = random.Random(seed)
    whole = {f"{kind}{compression}": packed(kind, compression) for kind in FORMATS for compression in PACKERS}
    whole[".parquet"] = parquet(TRUE)
    names = sorted(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "BLOCK", 1000)
        for i in range(number):
            suffix = names[i % len(names)]
            path = folder / f"{i}{suffix}"
            path.write_bytes(damaged(whole[suffix], draw))
            texts = [item.text for item in read_file(path, path.name, "text") if isinstance(item, Document)]
            path.unlink()
            wrong = [text for text in texts if not was_there(text, Path(suffix).stem or suffix)]
            if suffix not in FORMATS and wrong:
                yield f"seed {seed}, file {i}{suffix}: {wrong[0][:80]!r}"
