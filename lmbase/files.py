"""Files that are whole or absent, whatever interrupts the one who writes them; and a full disk, in words."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's share of it


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its place, synced, and rename it, so that a reader never meets half of it.

    Raises:
        OSError: the disk is full, or the folder cannot be written; an older file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")  # processes may write the same file at once
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            sync(file)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_path(path.parent)


def sync(file: IO) -> None:
    """Have everything written to an open file reach the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_path(path: Path) -> None:
    """The same for a closed file, or for the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def told_if_disk_is_full(folder: Path, kept: str) -> Iterator[None]:
    """Within this context the error of a full disk names `folder`, what is `kept` in it, and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        message = f"No space left on the disk; {kept}. Free some and run the same command again: it continues"
        raise OSError(error.errno, message, str(folder)) from error
