"""Archives: what no checksum vouches for is not read, and said with its place."""

import bz2
import lzma
import random
from pathlib import Path

import pyarrow as pa
import pytest
from damage import wrong_documents
from record_files import PACKERS, jsonl
from soak import times

from sllm_data import archives
from sllm_data.archives import DamagedFile, open_stream
from sllm_data.readers import Document, Skip, read_file

COMPRESSIONS = [compression for compression in PACKERS if compression]
DATA = random.Random(1).randbytes(300_000) + b"line\n" * 100_000


def read(path: Path, data: bytes) -> tuple[bytes, str]:
    """What is read before the fault, and the fault."""
    path.write_bytes(data)
    blocks = []
    try:
        with open_stream(path) as stream:
            while block := stream.read1():  # type: ignore[attr-defined]
                blocks.append(block)
    except DamagedFile as error:
        return b"".join(blocks), str(error)
    return b"".join(blocks), ""


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_members_are_read_to_the_last(tmp_path: Path, suffix: str) -> None:
    pack = PACKERS[suffix]
    assert read(tmp_path / f"a{suffix}", pack(DATA)) == (DATA, "")
    members = [pack(DATA[:10]), pack(b""), pack(DATA[10:])]
    assert read(tmp_path / f"b{suffix}", b"".join(members)) == (DATA, "")
    if suffix != ".zst":
        assert read(tmp_path / f"c{suffix}", (b"\0" * 300_000).join(members)) == (DATA, "")


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_A6_nothing_behind_the_last_good_checksum_is_read(tmp_path: Path, suffix: str) -> None:
    pack = PACKERS[suffix]
    good, second = pack(DATA[:10]), pack(DATA)
    flipped = bytearray(second)
    flipped[len(second) // 2] ^= 16
    for name, rest in {"flipped": bytes(flipped), "cut": second[:-3], "stray": b"no member, these bytes"}.items():
        found, fault = read(tmp_path / f"{name}{suffix}", good + rest)
        assert found == DATA[:10], name
        assert f"part 2 of the archive, which begins at byte {len(good):,}" in fault
    assert read(tmp_path / f"empty{suffix}", b"")[1].startswith("the file is empty")


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_A6_half_a_record_is_none(tmp_path: Path, suffix: str) -> None:
    """The first member ends within a record, the second is damaged."""
    lines, table = jsonl(["One.", "Two."]), b"text\nOne.\nTwo words.\n"
    damaged = bytearray(PACKERS[suffix](lines[30:]))
    damaged[-6] ^= 1
    for kind, first in {".jsonl": lines[:30], ".csv": table[:14], ".txt": lines[:30]}.items():
        path = tmp_path / f"a{kind}{suffix}"
        path.write_bytes(PACKERS[suffix](first) + bytes(damaged))
        *documents, skip = read_file(path, path.name, "text")
        assert [item.text for item in documents if isinstance(item, Document)] == ([] if kind == ".txt" else ["One."])
        assert isinstance(skip, Skip)
        assert (skip.name, skip.reason) == (path.name, "unreadable file")


def test_A6_an_archive_without_checksums_is_not_read(tmp_path: Path) -> None:
    """One flipped bit in one may change thousands of documents, and nobody would see it."""
    _, fault = read(tmp_path / "a.zst", pa.Codec("zstd").compress(DATA, asbytes=True))
    assert "no checksum" in fault
    assert "`zstd -dc OLD | zstd -o NEW` writes one" in fault
    assert "no checksum" in read(tmp_path / "a.xz", lzma.compress(DATA, check=lzma.CHECK_NONE))[1]


def test_A6_random_damage_gives_no_document_that_was_not_there(tmp_path: Path) -> None:
    assert list(wrong_documents(tmp_path, times(500, 20_000), seed=0)) == []


def test_random_damage_is_found_without_the_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_vouched", lambda path, size, changed: (size, ""))
    assert list(wrong_documents(tmp_path, 200, seed=0))


def test_A13_a_long_window_is_told_with_its_remedy(tmp_path: Path) -> None:
    frame = bytes.fromhex("28b52ffd 04 a8 010000 00000000")  # a window of 2 GiB, a checksum, an empty last block
    assert "window of 2,048 MiB" in (fault := read(tmp_path / "a.zst", frame)[1])
    assert "`zstd --long=31 -dc OLD | zstd -o NEW`" in fault


def test_A13_frames_that_are_skipped_hold_no_data(tmp_path: Path) -> None:
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
    pack = PACKERS[".zst"]
    assert read(tmp_path / "a.zst", skippable + pack(b"One.") + skippable + pack(b"Two.")) == (b"One.Two.", "")


def test_memory_stays_small_however_much_an_archive_holds(tmp_path: Path) -> None:
    """A few bytes of bz2 may hold megabytes: blocks are bounded."""
    (tmp_path / "a.bz2").write_bytes(bz2.compress(bytes(9_000_000)))
    with (tmp_path / "a.bz2").open("rb") as file:
        sizes = [len(block) for block in archives.CODECS[".bz2"].read(file)]
    assert sum(sizes) == 9_000_000
    assert max(sizes) <= archives.BLOCK
