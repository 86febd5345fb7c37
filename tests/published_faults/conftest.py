"""A table as `sllm evaluate` makes it, of a tiny OPT and an SLLM."""

import pytest
from published import run_evaluate
from tiny import make_sllm


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    return run_evaluate(tmp_path_factory.mktemp("evaluate"), make_sllm())
