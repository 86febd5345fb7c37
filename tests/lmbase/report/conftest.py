"""The folder of runs that reports are made of."""

import pytest
from toy_runs import write_runs


@pytest.fixture
def runs(tmp_path):
    return write_runs(tmp_path)
