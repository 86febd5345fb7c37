"""How often the tests repeat what chance decides: seldom in `make test`, often in `make soak` (SOAK=1).

One rule: a test that tries things at random takes the number of its tries from `times` and has both tiers in one
place; what is too long for `make test` altogether is marked `only_in_soak`. `make soak` runs the files that import this
module, and nothing else, and writes what each of their tests tried and found as a table (`soak_table`).
"""

import os

import pytest

SOAK = os.environ.get("SOAK", "") not in ("", "0")
_counts: list[int] = []  # that `times` gave since `take_count`
_tried: list[int] = []  # that tests reported


def times(quick: int, soak: int) -> int:
    """A count of tries."""
    _counts.append(soak if SOAK else quick)
    return _counts[-1]


def tried(number: int = 1) -> None:
    """Report tries, where they are not the largest of the test's `times`."""
    _tried.append(number)


def take_count() -> int:
    """The tries since the last call; 0 if none were counted."""
    number = sum(_tried) or max(_counts, default=0)
    _counts.clear()
    _tried.clear()
    return number


def only_in_soak(test):
    """Marks a test that is too long for `make test`."""
    return pytest.mark.soak(pytest.mark.skipif(not SOAK, reason="runs with SOAK=1")(test))
