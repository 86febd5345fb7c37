"""Standard output that takes no more: its reader has gone, the disk behind it is full, it is closed; and stderr."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # the disk, the user's share, the file; or the disk fails


@contextmanager
def output_taken() -> Iterator[None]:
    """Within this context, and at its end, what standard output does not take ends the process: silently, with status
    141, where its reader has gone (`sllm list | head -1`), else with status 2 and the reason. Where there is no
    standard output nothing begins."""
    if sys.stderr is None:  # closed, too: what is told there goes nowhere, and no file that is opened gets its number
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        _end("it is closed, so nothing was begun: give > /dev/null where nobody reads it.")
    try:
        yield
    except BrokenPipeError:
        _forget_output()
        raise SystemExit(141) from None
    except OSError as error:
        _flush(probe=error.filename is None and error.errno in FULL)
        raise
    except SystemExit:  # of a help that was shown
        _flush()
        raise
    _flush()


@contextmanager
def lines_may_be_lost() -> Iterator[None]:
    """Within this context a line on stderr that a full disk does not take (`2> log`) is left out: it is no reason to
    end work whose results go elsewhere."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


def _flush(probe: bool = False) -> None:
    """End if what waits to be written is not taken.

    Args:
        probe: try one line more, as of a long text that was not taken nothing waits.
    """
    try:
        sys.stdout.flush()
        if probe:
            print(flush=True)
    except BrokenPipeError:
        _forget_output()
        raise SystemExit(141) from None
    except OSError as error:
        _forget_output()
        _end(
            f"{error.strerror}: what is shown there is not all, while files that the command wrote are whole. Send it "
            "elsewhere or free some space, then give the same command again."
        )


def _forget_output() -> None:
    """Or Python would try once more as it ends, and end with a message and a status of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(reason: str) -> NoReturn:
    with lines_may_be_lost():  # both may lead to the same place
        print(f"error: standard output: {reason}", file=sys.stderr)
    raise SystemExit(2) from None
