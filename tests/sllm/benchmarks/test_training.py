"""All models train on the same text, and rows say how fast and in how much memory."""

from typing import Any

import pytest
from tiny import CAP

from lmbase.modeling.losses import CHUNK_ROWS
from sllm.benchmarks.replaying import Build, random_sentences
from sllm.benchmarks.training import Heads, Memory, Train, in_own_process, sllm_batch, token_batch, vae_batch

LENGTHS = [3, 1, 7, CAP, 5]
BUILD = Build("tiny", 512, num_future_tokens=3)


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**20)


def test_all_models_train_on_the_same_text():
    sentences = random_sentences(LENGTHS, 100, 512)
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


@pytest.mark.long
def test_rows_of_training_and_memory():
    rows = Train(train_tokens=64, rounds=1, dtype="fp32", device="cpu").rows(BUILD, LENGTHS)
    assert [row.model for row in rows] == ["OPT tiny", "autoencoder tiny", "SLLM tiny"]
    assert all((row.tokens_per_second or 0) > 0 and row.extra["mfu"] > 0 for row in rows)
    assert rows[0].extra["speed_ratio"] == 1
    parts = Memory(memory_sentences=20, dtype="fp32", device="cpu").parts(BUILD, LENGTHS)
    rows = [row for part in parts for row in part()]
    assert [row.model for row in rows] == ["OPT tiny", "SLLM tiny"]
    assert [row.extra["text_tokens"] for row in rows] == [4 * sum(LENGTHS)] * 2
    assert all(row.extra["peak_megabytes"] > 0 for row in rows)


def heads(*numbers: int, num_blocks: int, vocab_size: int, train_tokens: int) -> Heads:
    shape: Any = dict(num_blocks=num_blocks, vocab_size=vocab_size, train_tokens=train_tokens)
    return Heads(num_future_tokens=list(numbers), dtype="fp32", device="cpu", rounds=2, **shape)


@pytest.mark.long
def test_naive_memory_grows_with_heads_and_ours_does_not():
    tokens, vocabulary = 2048, 4096
    logits = tokens * vocabulary * 4
    # each in a process of its own: in this one, memory that earlier tests left would be taken for free, or not
    subset = heads(1, 3, num_blocks=3, vocab_size=vocabulary, train_tokens=tokens)
    found = {n: in_own_process(subset.peaks, "tiny", n, ["", "naive_"]) for n in (1, 3)}
    growth = {loss: found[3][loss][0] - found[1][loss][0] for loss in ("", "naive_")}
    assert growth["naive_"] > 2 * logits  # two heads' logits and their log-probabilities
    assert growth[""] < logits / 2
    assert found[3]["naive_"][0] > 1.3 * found[3][""][0]
    assert found[3][""][1] == CHUNK_ROWS["cpu"] * vocabulary * 4


def test_rows_of_heads_have_times_beside_operations(monkeypatch):
    monkeypatch.setattr("sllm.benchmarks.training.in_own_process", lambda work, *given: work(*given))
    one, two = heads(1, 2, num_blocks=2, vocab_size=512, train_tokens=64).rows("tiny")
    assert one.extra["time_ratio"] == one.extra["flops_ratio"] == 1
    # parameter-matched: a second head adds nothing but its product with the vocabulary
    blocks = one.extra["step_flops"] - 3 * 2 * 64 * 512 * 128
    assert two.extra["step_flops"] - blocks == pytest.approx(2 * 3 * 2 * 64 * 512 * 128)
    assert one.parameters == two.parameters
    assert two.extra["time_over_flops_ratio"] == pytest.approx(two.extra["time_ratio"] / two.extra["flops_ratio"])
    with pytest.raises(ValueError, match="as many heads at most"):
        heads(3, num_blocks=2, vocab_size=512, train_tokens=64).rows("tiny")
    with pytest.raises(ValueError, match="one number of heads at least"):
        heads(num_blocks=2, vocab_size=512, train_tokens=64).rows("tiny")


def test_rows_of_heads_are_of_the_tokens_that_were_trained_on(monkeypatch):
    monkeypatch.setattr("sllm.benchmarks.training.in_own_process", lambda work, *given: {})
    monkeypatch.setattr("sllm.benchmarks.training.WINDOW", 16)
    (row,) = heads(1, num_blocks=2, vocab_size=512, train_tokens=47).rows("tiny")  # two whole windows
    assert row.tokens_per_second * row.extra["seconds_per_step"] == pytest.approx(32)
    assert row.protocol == "heads V=512 tokens=32"
    assert row.extra["step_flops"] == 3 * heads(1, num_blocks=2, vocab_size=512, train_tokens=16).model(
        "tiny", 1
    ).flops(32, 16)
