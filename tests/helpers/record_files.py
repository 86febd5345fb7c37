"""Files of records, and what a corpus makes of them."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable

import pyarrow as pa
import xxhash

from sllm_data.corpora import Corpus, SkipLog

TEXTS = [
    "One.\r\nTwo, with CRLF.",
    "A NUL \x00 byte and \u200f\u05d0\u05d1.",
    "Ünï — 😀 e\u0301",
    'quotes " and, commas\n\nlines',
]


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)).encode()


def csv_bytes(texts: list[str], delimiter: str = ",") -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerows([["n", "text"], *([i, text] for i, text in enumerate(texts))])
    return stream.getvalue().encode()


def zst(data: bytes) -> bytes:
    """A zstandard frame with a checksum, as the program `zstd` writes it; Arrow's codec leaves it out."""
    frame = bytearray(pa.Codec("zstd").compress(data, asbytes=True))
    frame[4] |= 4
    return bytes(frame) + xxhash.xxh64(data).digest()[:3:-1]


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zst,
}


def everything(corpus: Corpus) -> list[str]:
    return sorted(document.text for split in corpus.splits for document in corpus.read(split))


def skipped(corpus: Corpus) -> dict[str, list[str]]:
    everything(corpus)
    together = SkipLog()
    for log in corpus.skipped.values():
        together.update(log.to_dict())
    return together.names
