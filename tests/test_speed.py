"""Speed against OPT in one run, loosely: what halves it is found here, noise of the machine is not."""

from dataclasses import replace

import numpy as np
import pytest

from multitoken.benchmarks.measuring import Way
from multitoken.benchmarks.replaying import Drafts
from sllm.benchmarks.generation import Generate
from sllm.benchmarks.replaying import Build
from sllm.benchmarks.training import Train

pytestmark = pytest.mark.long
BUILD = Build("small", 8192, num_future_tokens=3)
LENGTHS = (np.random.default_rng(0).gamma(2.2, 4.3, 200).astype(int) + 1).clip(1, 60).tolist()  # 10 tokens on average


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**22)


def test_an_sllm_writes_faster_than_opt():
    subset = Generate(prompt_tokens=[64], new_tokens=96, rounds=3, dtype="fp32", device="cpu")
    subset.drafts = Drafts("a", {"num_future_tokens": 3}, [Way("3 heads", 3, counts=[1, 0])])
    (part,) = subset.parts(BUILD, LENGTHS)
    rows = part()
    ratio = {row.model: row.extra["speed_ratio"] for row in rows[1:]}
    assert ratio["SLLM small"] > 1.2  # 2.5 where nothing else runs
    plain = {row.model: row.extra["plain_ratio"] for row in rows[2:]}
    assert plain["SLLM small, auto"] > 0.5  # in fp32 a draft does not pay on a CPU


def test_an_sllm_trains_faster_than_opt():
    subset = Train(train_tokens=1024, rounds=3, dtype="fp32", device="cpu")
    rows = subset.rows(replace(BUILD, num_future_tokens=1), LENGTHS)
    ratio = {row.model.split()[0]: row.extra["speed_ratio"] for row in rows}
    assert ratio["SLLM"] > 0.8
    assert ratio["autoencoder"] > 0.8
