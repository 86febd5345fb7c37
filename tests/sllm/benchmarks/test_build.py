"""Models of any family are built with random weights, named, and measured like OPT's."""

from itertools import repeat

import numpy as np
import pytest
import torch

from lmbase.benchmarking.roofline import Machine
from multitoken.benchmarks.replaying import Acceptance
from sllm.benchmarks.build import Build, random_sentences
from sllm.benchmarks.cache_size import measure_cache
from sllm.benchmarks.generation import Case, Contest, measure_generation
from sllm.benchmarks.training import StepSize, measure_training

LENGTHS = [3, 1, 7, 5]
MACHINE = Machine(torch.float32, "cpu")


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**20)


@pytest.fixture(params=["llama", "gpt2"])
def build(request):
    return Build(f"{request.param}-tiny", 512, num_future_tokens=2)


def test_names_say_family_and_size(build):
    family = build.size.partition("-")[0]
    assert build.lm_name == f"{family.upper()} {build.size}"
    assert Build("opt-125m", 512).lm_name == "OPT opt-125m"
    assert build.sllm_name == f"SLLM {build.size}"


def test_the_sllm_stands_on_the_model_and_has_what_another_has(build):
    lm = build.lm()
    sllm = build.sllm(lm)
    assert sllm.config.trunk.model_type == lm.config.model_type
    copied = Build("tiny", 512).like(sllm.config)
    assert copied.num_future_tokens == build.num_future_tokens


def test_random_text_has_the_lengths_and_no_special_ids():
    text = random_sentences([3, 4], 9, 50, np.random.default_rng(0))
    assert [len(sentence) for sentence in text] == [3, 4, 2]
    assert min(map(min, text)) >= 4


def test_any_family_is_timed_in_writing(build):
    lm = build.lm().eval()
    contest = Contest(build, lm, build.sllm(lm).eval(), LENGTHS, [Acceptance("2 heads", 2, [1])], MACHINE, 1)
    rows = {row.model: row for row in measure_generation(contest, Case(12, 8, 1), {})}
    assert list(rows)[:2] == [build.lm_name, build.sllm_name]
    assert rows[build.sllm_name].extra["speed_ratio"] > 0
    assert rows[build.lm_name].extra["of_limit"] > 0


def test_any_family_is_timed_in_training(build):
    rows = measure_training(build, LENGTHS, StepSize(48, "fp32", "cpu", 1), MACHINE)
    assert [row.model for row in rows] == [build.lm_name, f"autoencoder {build.size}", build.sllm_name]


def test_the_cache_of_any_family_is_counted(build):
    plain, row = measure_cache(build, {"line": [8, 4]}, "bf16")
    assert row.kv_bytes_per_token == pytest.approx((plain.kv_bytes_per_token or 0) / 6)
    sllm = build.sllm(build.lm()).eval()
    sllm.replay([4], repeat(0))
    assert sllm.generate(torch.tensor([[[10] * 4]]), max_new_tokens=8, min_new_tokens=8).num_new_tokens == [8]
