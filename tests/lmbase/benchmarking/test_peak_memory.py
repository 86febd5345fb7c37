"""Work in a process of its own: its answer comes back, its failure is told."""

import os
import sys

import pytest
import torch

from lmbase.benchmarking.peak_memory import THRESHOLDS, in_own_process, peak, start_of_peak


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "worker_of_a_test.py").write_text(
        "class Worker:\n"
        "    def work(self, *given):\n"
        "        print('progress')\n"
        "        if given == ('fail',):\n"
        "            raise SystemExit('no memory left')\n"
        "        return list(given)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("worker_of_a_test")
    del sys.modules["worker_of_a_test"]


def test_what_is_returned_is_the_answer(module):
    assert in_own_process(module.Worker().work, "a", "b") == ["a", "b"]


def test_a_failure_is_told_with_its_reason(module):
    with pytest.raises(ValueError, match="no memory left"):
        in_own_process(module.Worker().work, "fail")
    with pytest.raises(ValueError, match="failed, for want of memory perhaps"):
        in_own_process(os._exit, 7)


def test_memory_that_is_freed_goes_back_to_the_system_in_that_process_only():
    name, value = next(iter(THRESHOLDS.items()))
    assert in_own_process(os.getenv, name) == value
    assert os.getenv(name) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the mark starts anew where Linux does it")
def test_what_was_let_go_counts_in_the_peak():
    before = start_of_peak("cpu")
    torch.ones(16 * 2**20).sum()  # 64 MiB
    assert peak("cpu") - before > 48 * 2**20
