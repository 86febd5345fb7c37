"""A text file is whole or absent."""

import errno

import pytest

from lmbase import files
from lmbase.files import told_if_disk_is_full, write_text


def test_text_is_written_as_it_is_and_folders_are_made(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "größer\nals\r\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "größer\nals\r\n".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("failing", ["sync", "encoding"])
def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch, failing):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "a.txt", "old")
    if failing == "sync":
        monkeypatch.setattr(files, "sync", full)
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_text(tmp_path / "a.txt", "new" if failing == "sync" else "new \udc80")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_only_a_full_disk_is_put_into_other_words(tmp_path):
    for number in files.DISK_FULL:
        with pytest.raises(OSError, match=r"No space left on the disk; all is kept\. Free some") as caught:
            with told_if_disk_is_full(tmp_path, "all is kept"):
                raise OSError(number, "whatever the system says")
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path))
    with pytest.raises(PermissionError, match="not yours"), told_if_disk_is_full(tmp_path, "all is kept"):
        raise PermissionError(errno.EACCES, "not yours")
