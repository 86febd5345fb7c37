"""Bytes of a file as UTF-8: byte order marks say what a file is; without one it has to be UTF-8, or is told apart."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sllm_data.archives import BLOCK, blocks_stream, open_stream

BOMS = {  # the longer ones first: that of UTF-16-LE begins that of UTF-32-LE
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
LOOKED_AT = 4096  # bytes
NUL_SHARE = 0.2  # of them in what is no UTF-8: there, a NUL here and there is data
TYPOGRAPHY = set("‘’‚“”„‹›«»–—…·•€£§©®°´¿¡ªº\xa0")  # what texts in Windows-1252 hold besides letters


class WrongEncoding(ValueError):
    """The bytes are no UTF-8; the message says what they look like, and the remedy."""


def open_text(path: Path) -> BinaryIO:
    """The text of a file as a stream of UTF-8 without a byte order mark; whether it is valid, its reader finds out.

    Raises:
        WrongEncoding: it looks like UTF-16 or UTF-32 without a byte order mark, or like no text.
        UnicodeDecodeError: while reading, a file with a byte order mark of UTF-16 or UTF-32 that is not that.
        DamagedFile: while reading, see `open_stream`.
    """
    stream = open_stream(path)
    head = stream.peek(LOOKED_AT)[:LOOKED_AT]  # type: ignore[attr-defined]  # it is a buffered reader
    for bom, encoding in BOMS.items():
        if head.startswith(bom):
            stream.read(len(bom))
            return stream if encoding == "utf-8" else blocks_stream(_recoded(stream, encoding))
    if len(head) >= 16 and head.count(0) > NUL_SHARE * len(head):
        stream.close()
        raise WrongEncoding(_looks_like_nuls(head))
    return stream


def _recoded(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    with stream:
        while block := stream.read(BLOCK):
            yield decoder.decode(block).encode("utf-8", errors="surrogatepass")
        yield decoder.decode(b"", final=True).encode()


def _looks_like_nuls(head: bytes) -> str:
    even, odd = head[::2].count(0), head[1::2].count(0)
    if min(even, odd) > 0.1 * max(even, odd):
        return "it is full of NULs: it is no text, or UTF-32; `iconv -f UTF-32LE -t UTF-8` converts that"
    name = "UTF-16LE" if odd > even else "UTF-16BE"
    return f"it looks like {name} without a byte order mark: convert it with `iconv -f {name} -t UTF-8`"


def what_it_may_be(error: UnicodeDecodeError) -> str:
    """Where bytes are no UTF-8, and what they look like instead."""
    near = error.object[max(0, error.start - 100) : error.start + 1000]
    place = f"byte {error.start:,} (0x{error.object[error.start]:02x})"
    found = near.decode("cp1252", errors="replace")
    if all(c.isascii() or c.isalpha() or c in TYPOGRAPHY for c in found):
        return f"{place}; it looks like Windows-1252: convert it with `iconv -f WINDOWS-1252 -t UTF-8`"
    return f"{place}; if the file is in another encoding, convert it with `iconv -f NAME -t UTF-8`"
