"""A disk that fails, or a process that ends, at one operation of a file system after another."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EACCES, EIO, ENOSPC
from pathlib import Path
from typing import Any

import pytest

ENDED = 9  # status of a process that ends behind an operation
ERRORS = (None, ENOSPC, EIO, EACCES)  # None: the process ends
WRITING: dict[str, Any] = {"fsync": os, "rename": Path, "replace": Path, "unlink": Path, "mkdir": Path}
WRITING |= {"write_text": Path, "rmtree": shutil}


@contextmanager
def failing(at: int, error: int | None, further: Mapping[str, Any] = {}) -> Iterator[list[str]]:
    """Within this context the operation of this number on the disk fails with `error`, or ends the process once it is
    done. The list grows by the name of each.

    Args:
        further: operations beside those of `WRITING`, with what they are attributes of.
    """
    done: list[str] = []

    def wrapped(name: str, function):
        def operation(*args, **kwargs):
            done.append(name)
            if len(done) == at and error is not None:
                raise OSError(error, os.strerror(error), "somewhere")
            result = function(*args, **kwargs)
            if len(done) == at:
                os._exit(ENDED)
            return result

        return operation

    with pytest.MonkeyPatch.context() as patch:
        for name, owner in {**WRITING, **further}.items():
            patch.setattr(owner, name, wrapped(name, getattr(owner, name)))
        yield done
