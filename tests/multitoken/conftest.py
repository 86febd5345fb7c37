"""Models that several files test, trained once in a process: leave them as they are."""

import pytest
from learned import KINDS, trained_heads


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return trained_heads(request.param)


@pytest.fixture(scope="module")
def counter():
    return trained_heads()
