"""What more heads cost in training: memory and time."""

import pytest

from lmbase.modeling.losses import CHUNK_ROWS
from multitoken.benchmarks.training_cost import Setting, measure_heads, step_memory, step_memory_here


def test_naive_memory_grows_with_heads_and_ours_does_not():
    tokens, vocabulary = 2048, 4096
    logits = tokens * vocabulary * 4
    # each in a process of its own: in this one, memory that earlier tests left would be taken for free, or not
    found = {n: step_memory(Setting("tiny", 3, n, vocabulary, tokens, "fp32", "cpu")) for n in (1, 3)}
    growth = {loss: found[3][loss].peak_bytes - found[1][loss].peak_bytes for loss in ("ours", "naive")}
    assert growth["naive"] > 2 * logits  # two heads' logits and their log-probabilities
    assert growth["ours"] < logits / 2
    assert found[3]["naive"].peak_bytes > 1.3 * found[3]["ours"].peak_bytes
    assert found[3]["ours"].largest_vocabulary_bytes == CHUNK_ROWS["cpu"] * vocabulary * 4


def test_rows_of_heads_have_times_beside_operations(monkeypatch):
    monkeypatch.setattr("multitoken.benchmarks.training_cost.step_memory", step_memory_here)
    settings = [Setting("tiny", 2, n, 512, 64, "fp32", "cpu") for n in (1, 2)]
    one, two = measure_heads(settings, 2)
    assert one.extra["time_ratio"] == one.extra["flops_ratio"] == 1
    # parameter-matched: a second head adds nothing but its product with the vocabulary
    blocks = one.extra["step_flops"] - 3 * 2 * 64 * 512 * 128
    assert two.extra["step_flops"] - blocks == pytest.approx(2 * 3 * 2 * 64 * 512 * 128)
    assert one.parameters == two.parameters
    assert two.extra["time_over_flops_ratio"] == pytest.approx(two.extra["time_ratio"] / two.extra["flops_ratio"])
    with pytest.raises(ValueError, match="as many heads at most"):
        measure_heads([Setting("tiny", 2, 3, 512, 64, "fp32", "cpu")], 1)
    with pytest.raises(ValueError, match="rounds=0"):
        measure_heads(settings, 0)
