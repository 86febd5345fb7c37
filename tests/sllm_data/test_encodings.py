"""Encodings: a mark says what a file is, the rest is UTF-8 or told apart."""

from pathlib import Path

import pytest

from sllm_data.encodings import BOMS, WrongEncoding, open_text, what_it_may_be
from sllm_data.readers import Document, Skip, read_file

TEXT = "Grüße, \u2028 NUL \x00, 日本 and 😀.\r\n"


@pytest.mark.parametrize(("bom", "encoding"), BOMS.items(), ids=BOMS.values())
def test_A12_a_byte_order_mark_says_what_a_file_is(tmp_path: Path, bom: bytes, encoding: str) -> None:
    for name, data in {
        "a.txt": TEXT,
        "a.jsonl": '{"text": "Grüße"}\n{"text": "b"}',
        "a.csv": "text,n\nGrüße,1\nb,2\n",
    }.items():
        (tmp_path / name).write_bytes(bom + data.encode(encoding))
        texts = [item.text for item in read_file(tmp_path / name, name, "text") if isinstance(item, Document)]
        assert texts == ([TEXT] if name == "a.txt" else ["Grüße", "b"])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json"])
def test_A12_utf_16_without_a_mark_is_told_with_its_remedy(tmp_path: Path, encoding: str, name: str) -> None:
    (tmp_path / name).write_bytes('{"text": "Plain words.\\n"}\n'.encode(encoding))
    (skip,) = read_file(tmp_path / name, name, "text")
    assert isinstance(skip, Skip)
    shown = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    assert f"looks like {shown} without" in skip.detail
    assert f"`iconv -f {shown} -t UTF-8`" in skip.detail


def test_A12_windows_1252_is_told_with_its_remedy(tmp_path: Path) -> None:
    data = "text,n\n“Grüße” – Ödön,1\nfine,2\n".encode("cp1252")
    for name in ("a.txt", "a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(data if name != "a.jsonl" else b'{"text": "Gr\xfc\xdfe"}')
        skip = next(item for item in read_file(tmp_path / name, name, "text") if isinstance(item, Skip))
        assert skip.reason == "invalid UTF-8"
        assert "looks like Windows-1252: convert it with `iconv -f WINDOWS-1252 -t UTF-8`" in skip.detail


def test_A12_a_mark_inside_joined_files_costs_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n')
    assert [item.text for item in read_file(tmp_path / "a.jsonl", "a", "text") if isinstance(item, Document)] == [
        "a",
        "b",
    ]


def test_a_damaged_byte_in_utf_8_is_not_taken_for_another_encoding() -> None:
    data = "Größe für Bärbel, ".encode() + b"\xff" + "Öl für Jürgen".encode()
    with pytest.raises(UnicodeDecodeError) as caught:
        data.decode()
    assert "Windows" not in what_it_may_be(caught.value)
    assert "byte 22 (0xff)" in what_it_may_be(caught.value)


def test_a_file_of_nuls_is_no_text_but_a_nul_is_data(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(5000))
    with pytest.raises(WrongEncoding, match="full of NULs"):
        open_text(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"A NUL \0 and another \0 are data")
    with open_text(tmp_path / "a.txt") as stream:
        assert stream.read().count(0) == 2


def test_utf_16_that_is_cut_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("cut".encode("utf-16")[:-1])
    (skip,) = read_file(tmp_path / "a.txt", "a", "text")
    assert isinstance(skip, Skip)
    assert skip.reason == "invalid UTF-8"
