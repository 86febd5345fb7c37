"""Work in a process of its own: its answer comes back, its failure is told."""

import sys

import pytest
import torch

from lmbase.benchmarking.peak_memory import in_own_process, peak, start_of_peak


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "worker_of_a_test.py").write_text(
        "import json, sys\nif sys.argv[1] == 'fail':\n    raise SystemExit('no memory left')\n"
        "print('progress')\nprint(json.dumps(sys.argv[1:]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "worker_of_a_test"


def test_the_last_line_is_the_answer(module):
    assert in_own_process(module, "a", "b") == ["a", "b"]


def test_a_failure_is_told_with_its_reason(module):
    with pytest.raises(ValueError, match="no memory left"):
        in_own_process(module, "fail")


@pytest.mark.skipif(sys.platform != "linux", reason="the mark starts anew where Linux does it")
def test_what_was_let_go_counts_in_the_peak():
    before = start_of_peak("cpu")
    torch.ones(16 * 2**20).sum()  # 64 MiB
    assert peak("cpu") - before > 48 * 2**20
