"""How often the tests repeat what chance decides: seldom in `make test`, often in the soak (SOAK=1)."""

import os

import pytest

SOAK = os.environ.get("SOAK", "") not in ("", "0")


def times(quick: int, soak: int) -> int:
    """A count of tries."""
    return soak if SOAK else quick


def only_in_soak(test):
    """Marks a test that is too long for `make test`."""
    return pytest.mark.soak(pytest.mark.skipif(not SOAK, reason="runs with SOAK=1")(test))
