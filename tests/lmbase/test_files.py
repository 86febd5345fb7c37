"""A text file is whole or absent, and what was changed in it is seen."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import make_processor

from lmbase import files
from lmbase.files import (
    alone_in,
    check_checksum,
    from_lines,
    read_json,
    to_line,
    told_if_disk_is_full,
    verification,
    verify_once,
    with_checksum,
    write_folder,
    write_text,
)


def test_text_is_written_as_it_is_and_folders_are_made(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "größer\nals\r\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "größer\nals\r\n".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("failing", ["sync", "encoding"])
def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch, failing):
    write_text(tmp_path / "a.txt", "old")
    if failing == "sync":
        monkeypatch.setattr(files, "sync", full)
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_text(tmp_path / "a.txt", "new" if failing == "sync" else "new \udc80")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def full(*arguments, **keys):
    raise OSError(errno.ENOSPC, "No space left on device")  # of a write or a sync: it names no file


def test_an_error_of_the_disk_names_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_text(tmp_path / "a.txt", "new")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_an_error_of_the_disk_names_the_folder_that_was_to_be_written(tmp_path):
    def copy(beside):  # as shutil.copyfile tells it
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "source"), None, str(beside / "copy"))

    def open_beside(beside):
        (beside / "no" / "such").open("w")

    for write, number in ((full, errno.ENOSPC), (copy, errno.ENOSPC), (open_beside, errno.ENOENT)):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            write_folder(tmp_path / "a", write)
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "a"))
        assert not any(tmp_path.iterdir())


def test_an_error_of_reading_names_what_was_read(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_folder(tmp_path / "a", lambda beside: (tmp_path / "source").read_text())
    assert caught.value.filename == str(tmp_path / "source")


@pytest.fixture
def room():
    """A file may have so many bytes: what a full disk is to those who write it."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("what", ["tokenizer", "weights"])
def test_a_disk_that_takes_no_more_is_an_os_error_whoever_writes(tmp_path, room, what):
    """Both are written by Rust, whose errors are of other kinds."""
    tokenizer = make_processor().tokenizer
    writers = {
        "tokenizer": lambda beside: tokenizer.save_pretrained(str(beside)),
        "weights": lambda beside: save_file({"a": torch.zeros(100)}, beside / "a.safetensors"),
    }
    room(200)
    with pytest.raises(OSError, match="File too large") as caught:
        write_folder(tmp_path / "a", writers[what])
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "a"))
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_claimed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space") as caught, alone_in(tmp_path):
        pass
    assert caught.value.filename == str(tmp_path)


def test_only_a_full_disk_is_put_into_other_words(tmp_path):
    for number in files.DISK_FULL:
        with pytest.raises(OSError, match=r"No space left on the disk; all is kept\. Free some") as caught:
            with told_if_disk_is_full(tmp_path, "all is kept"):
                raise OSError(number, "whatever the system says")
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path))
    with pytest.raises(PermissionError, match="not yours"), told_if_disk_is_full(tmp_path, "all is kept"):
        raise PermissionError(errno.EACCES, "not yours")


def test_E11_a_changed_line_is_told_and_lines_of_earlier_versions_are_read():
    lines = [to_line({"step": step, "loss": 1 / 3}) for step in (1, 2, 3)]
    assert list(from_lines("".join(lines))) == [{"step": step, "loss": 1 / 3} for step in (1, 2, 3)]
    for damaged in (lines[1].replace("2", "4", 1), lines[1][:-5], '{"step": 2, "loss": 0.3}', "[1]", "[" * 10**5):
        first, second, third = from_lines(f"{lines[0]}{damaged.strip()}\n{lines[2]}")
        assert (first, third) == ({"step": 1, "loss": 1 / 3}, {"step": 3, "loss": 1 / 3})
        assert isinstance(second, ValueError), damaged
    assert list(from_lines('{"step": 1}\n' + lines[1])) == [{"step": 1}, {"step": 2, "loss": 1 / 3}]


def test_E11_a_changed_document_is_told():
    document = with_checksum({"a": 1, "b": {2: [0.1]}})
    check_checksum(document)
    check_checksum({"a": 1})  # of an earlier version
    text = json.dumps(document)
    for changed in (text.replace("0.1", "0.2"), text.replace("checksum", "checksun")):
        with pytest.raises(ValueError, match="not those that were written"):
            check_checksum(json.loads(changed))


def test_folders_are_verified_where_it_is_wanted_and_by_one_process_of_a_machine(tmp_path, monkeypatch):
    write_folder(tmp_path / "a", lambda folder: (folder / "weights").write_text("0123"))
    (tmp_path / "a" / "weights").write_text("0124")
    with verification(False):
        verify_once(tmp_path / "a")
    with monkeypatch.context() as second:
        second.setenv("LOCAL_RANK", "1")
        verify_once(tmp_path / "a")
    with pytest.raises(ValueError, match="weights is damaged"):
        verify_once(tmp_path / "a")


def test_what_is_not_there_or_not_to_be_read_is_not_told_to_be_damaged(tmp_path):
    with pytest.raises(ValueError, match=r"a.json': no such file\. Check the name"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory\."):
        read_json(tmp_path)
