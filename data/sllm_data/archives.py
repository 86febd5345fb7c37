"""Files as bytes that can be trusted: a compressed file is read up to its last good checksum, and no further.

A compressed file is a row of members (of zstandard: frames), each with a checksum at its end. It is decompressed once
to find the members that are whole, which needs little memory however long they are, and again to be read. At the first
byte that nothing vouches for the stream raises `DamagedFile`, so that no reader takes half a record for a whole one.

A new compression is one line in `CODECS`.
"""

import bz2
import functools
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

BLOCK = 2**18  # bytes at a time
ZST_WINDOW = 2**27  # libzstd refuses longer ones in a stream
FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


class DamagedFile(ValueError):
    """From here on nothing vouches for the bytes; the message says why, and where."""


def open_stream(path: Path) -> BinaryIO:
    """The bytes of a file, decompressed if its last suffix says that it is compressed.

    Raises:
        DamagedFile: while reading, at the first byte that no checksum vouches for.
    """
    codec = CODECS.get(path.suffix.lower())
    return path.open("rb") if codec is None else blocks_stream(_vouched_blocks(path, codec))


def _vouched_blocks(path: Path, codec: "Codec") -> Iterator[bytes]:
    stat = path.stat()
    end, fault = _vouched(path, stat.st_size, stat.st_mtime_ns)
    with path.open("rb") as file:
        yield from codec.read(blocks_stream(_first(file, end)))
    if fault:
        raise DamagedFile(fault)


@functools.lru_cache(maxsize=4096)
def _vouched(path: Path, size: int, changed: int) -> tuple[int, str]:
    """Where the last good member of a file ends, and why no more is good; found once while the file stays as it is."""
    members = end = 0
    with path.open("rb") as file:
        try:
            if not size:
                raise EOFError("the file is empty, which no archive is")
            for end in CODECS[path.suffix.lower()].ends(file):  # noqa: B007 (the last one counts)
                members += 1
        except (*FAULTS, DamagedFile) as error:
            return end, (
                f"{error} (part {members + 1} of the archive, which begins at byte {end:,}): nothing from there on, "
                f"{size - end:,} of {size:,} bytes, is read. Fetch the file again or write it anew"
            )
    return end, ""


def _first(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (block := file.read(min(size, BLOCK))):
        yield block
        size -= len(block)


# -- gz, bz2, xz: the standard library's decompressors verify a checksum when they reach a member's end ----------------


@dataclass(frozen=True)
class Codec:
    """A compression whose members follow each other; `new` makes a decompressor for one of them."""

    new: Callable[[], Any]

    def read(self, file: BinaryIO) -> Iterator[bytes]:
        """What a file holds; faults are raised where they are met."""
        return (block for block, _ in self._blocks(file))

    def ends(self, file: BinaryIO) -> Iterator[int]:
        """Where in the file each member ends; faults are raised."""
        return (end for _, end in self._blocks(file) if end is not None)

    def _blocks(self, file: BinaryIO) -> Iterator[tuple[bytes, int | None]]:
        """Blocks, and behind each last block of a member where in the file the member ends."""
        data = file.read(BLOCK)
        taken = len(data)
        while data:
            member = self.new()
            while not member.eof:
                block = member.decompress(data, BLOCK)
                data = getattr(member, "unconsumed_tail", b"")  # zlib's way; the others keep what they did not use
                if not member.eof:
                    yield block, None
                    if not data and getattr(member, "needs_input", True):
                        data = file.read(BLOCK)
                        taken += len(data)
                        if not data:
                            raise EOFError("the file ends before its data do")
            if getattr(member, "check", None) == lzma.CHECK_NONE:
                raise DamagedFile("it has no checksum that damage could be seen by; `xz` writes one by default")
            data = member.unused_data
            yield block, taken - len(data)
            while not (data := data.lstrip(b"\0")) and (data := file.read(BLOCK)):  # zeros between members are padding
                taken += len(data)


# -- zst: what frames there are, and whether they have checksums, is read off their headers ----------------------------


class ZstCodec(Codec):
    """Zstandard. A checksum at a frame's end is optional: the program `zstd` writes one, many libraries do not."""

    def read(self, file: BinaryIO) -> Iterator[bytes]:
        with pa.input_stream(file, compression="zstd") as stream:
            while block := stream.read(BLOCK):
                yield block

    def ends(self, file: BinaryIO) -> Iterator[int]:
        size, start = os.fstat(file.fileno()).st_size, 0
        while start < size:
            end, is_data = _zst_frame(file, start, size)
            if is_data:
                file.seek(start)
                for _ in self.read(blocks_stream(_first(file, end - start))):
                    pass
            yield end
            start = end


def _zst_frame(file: BinaryIO, start: int, size: int) -> tuple[int, bool]:
    """Where the frame that begins at `start` ends, and whether it holds data (RFC 8878, section 3.1)."""
    file.seek(start)
    head = file.read(18)
    magic = int.from_bytes(head[:4], "little")
    if magic & 0xFFFFFFF0 == 0x184D2A50 and len(head) >= 8:  # a skippable frame
        end = start + 8 + int.from_bytes(head[4:8], "little")
        is_data = False
    elif magic == 0xFD2FB528 and len(head) >= 6:
        flags, single = head[4], head[4] >> 5 & 1
        exponent, mantissa = head[5] >> 3, head[5] & 7
        if not single and (window := 2**exponent * 128 * (8 + mantissa)) > ZST_WINDOW:
            raise DamagedFile(
                f"its window of {window / 2**20:,.0f} MiB is above the {ZST_WINDOW / 2**20:.0f} MiB that are allowed; "
                "write it anew with `zstd --long=31 -dc OLD | zstd -o NEW`"
            )
        if not flags & 4:
            raise DamagedFile(
                "it has no checksum that damage could be seen by; `zstd -dc OLD | zstd -o NEW` writes one"
            )
        content_size = (single, 2, 4, 8)[flags >> 6]
        end = start + 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + content_size
        last = False
        while not last and end < size:
            file.seek(end)
            block = int.from_bytes(file.read(3), "little")
            last = bool(block & 1)
            end += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
        end += 4 if last else size  # without a last block the end is behind the file's
        is_data = True
    else:
        raise DamagedFile("what stands there is no zstandard frame")
    if end > size:
        raise EOFError("the file ends before its data do")
    return end, is_data


CODECS: dict[str, Codec] = {
    ".gz": Codec(lambda: zlib.decompressobj(wbits=31)),
    ".bz2": Codec(bz2.BZ2Decompressor),
    ".xz": Codec(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    ".zst": ZstCodec(lambda: None),
}


# -- blocks as a stream ------------------------------------------------------------------------------------------------


class _BlockStream(io.RawIOBase):
    def __init__(self, blocks: Iterator[bytes]):
        self.blocks, self.rest = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.rest:
            block = next(self.blocks, None)
            if block is None:
                return 0
            self.rest = memoryview(block)
        size = min(len(buffer), len(self.rest))
        buffer[:size] = self.rest[:size]
        self.rest = self.rest[size:]
        return size


def blocks_stream(blocks: Iterator[bytes]) -> BinaryIO:
    """What an iterator yields as a buffered stream."""
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, _BlockStream(blocks)), BLOCK))
