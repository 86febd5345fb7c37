"""How often the tests repeat what chance decides: seldom in `make test`, often in `make soak` (SOAK=1).

One rule: a test that tries things at random takes the number of its tries from `times` and has both tiers in one
place; what is too long for `make test` altogether is marked `only_in_soak`. `make soak` runs the files that import this
module, and nothing else, and writes what each of their tests tried and found as a table (`soak_table`).
"""

import os

import pytest

SOAK = os.environ.get("SOAK", "") not in ("", "0")
NO_COUNT = 10**6  # a larger number means "all there are"
_counted: list[int] = []  # since `take_count`


def times(quick: int, soak: int) -> int:
    """A count of tries."""
    number = soak if SOAK else quick
    if number < NO_COUNT:
        _counted.append(number)
    return number


def tried(number: int) -> None:
    """Report that this test made so many tries; where it does not, the largest of its `times` is what it tried."""
    _counted[:] = [number]


def take_count() -> int:
    """The tries since the last call; 0 if none were counted."""
    number = max(_counted, default=0)
    _counted.clear()
    return number


def only_in_soak(test):
    """Marks a test that is too long for `make test`."""
    return pytest.mark.soak(pytest.mark.skipif(not SOAK, reason="runs with SOAK=1")(test))
