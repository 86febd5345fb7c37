"""All models train on the same text, and rows say how fast and in how much memory."""

import numpy as np
import pytest
import torch
from tiny import CAP

from lmbase.benchmarking.roofline import Machine
from sllm.benchmarks.build import Build, random_sentences
from sllm.benchmarks.training import (
    StepSize,
    measure_memory,
    measure_training,
    sllm_batch,
    token_batch,
    vae_batch,
)

LENGTHS = [3, 1, 7, CAP, 5]
BUILD = Build("tiny", 512, num_future_tokens=3)


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**20)


def test_all_models_train_on_the_same_text():
    sentences = random_sentences(LENGTHS, 100, 512, np.random.default_rng(0))
    assert sum(map(len, sentences)) == 100
    flat = [i for sentence in sentences for i in sentence]
    for batch in (
        token_batch(sentences, 41),
        token_batch(sentences, 2048),
        sllm_batch(sentences),
        vae_batch(sentences),
    ):
        assert batch["input_ids"][batch["attention_mask"]].tolist() == flat
    assert token_batch(sentences, 41)["input_ids"].shape == (3, 34)  # even windows: little padding


def test_rows_of_training_and_memory():
    rows = measure_training(BUILD, LENGTHS, StepSize(64, "fp32", "cpu", 1), Machine(torch.float32, "cpu"))
    assert [row.model for row in rows] == ["OPT tiny", "autoencoder tiny", "SLLM tiny"]
    assert all((row.tokens_per_second or 0) > 0 and row.extra["mfu"] > 0 for row in rows)
    assert rows[0].extra["speed_ratio"] == 1
    rows = measure_memory(BUILD, LENGTHS, 20, "fp32", "cpu")
    assert [row.extra["text_tokens"] for row in rows] == [4 * sum(LENGTHS)] * 2
    assert all(row.extra["peak_megabytes"] > 0 for row in rows)
