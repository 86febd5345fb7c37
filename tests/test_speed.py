"""Speed against OPT in one run, loosely: what halves it is found here, noise of the machine is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmbase.benchmarking.roofline import Machine
from multitoken.benchmarks.replaying import Acceptance
from sllm.benchmarks.build import Build
from sllm.benchmarks.generation import Case, Contest, measure_generation
from sllm.benchmarks.training import StepSize, measure_training

BUILD = Build("small", 8192, num_future_tokens=3)
LENGTHS = (np.random.default_rng(0).gamma(2.2, 4.3, 200).astype(int) + 1).clip(1, 60).tolist()  # 10 tokens on average


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**22)
    return Machine(torch.float32, "cpu")


def test_an_sllm_writes_faster_than_opt(machine):
    lm = BUILD.lm().eval()
    sllm = BUILD.sllm(lm).eval()
    ways = [Acceptance("3 heads", 3, [1, 0])]
    rows = measure_generation(Contest(BUILD, lm, sllm, LENGTHS, ways, machine, 3), Case(64, 96, 1), {})
    ratio = {row.model: row.extra["speed_ratio"] for row in rows[1:]}
    assert ratio["SLLM small"] > 1.2  # 2.5 where nothing else runs
    plain = {row.model: row.extra["plain_ratio"] for row in rows[2:]}
    assert plain["SLLM small, auto"] > 0.5  # in fp32 a draft does not pay on a CPU


def test_an_sllm_trains_faster_than_opt(machine):
    rows = measure_training(replace(BUILD, num_future_tokens=1), LENGTHS, StepSize(1024, "fp32", "cpu", 3), machine)
    ratio = {row.model.split()[0]: row.extra["speed_ratio"] for row in rows}
    assert ratio["SLLM"] > 0.8
    assert ratio["autoencoder"] > 0.8
