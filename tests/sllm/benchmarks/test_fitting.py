"""Trainings that fit into machines: strategy, accumulation, time, and what is told where nothing fits."""

import pytest
from designs import tokens

from lmbase.benchmarking.accelerators import Accelerator
from sllm.benchmarks.fitting import Wish, fit
from sllm.benchmarks.machines import USABLE, Listed
from sllm.benchmarks.planning import How

TOKENS = tokens()


def gpu(num_bytes: float, number: int = 1) -> Listed:
    return Listed(Accelerator("toy", 2.0, 1.0, num_bytes / USABLE / 1e9, 1.0, "here"), number, 0.5)


def needed(number: int, how: How, again: bool) -> float:
    return sum(TOKENS.training_memory(number, how, again).values()) * 1.001


def test_accumulation_and_time_follow_what_fits():
    how = How(kernels="cuda")
    machine = gpu(needed(4, how, True))
    found = fit(TOKENS, Wish(29_000, batch_size=10), how, machine)
    assert (found.micro_batch_size, found.micro_batches, found.steps) == (4, 3, 100)
    assert found.pace.micro_batch == pytest.approx(TOKENS.step(4, how).operations / 0.5e12)
    assert found.seconds == 100 * (3 * found.pace.micro_batch + found.pace.update)
    assert sum(found.memory.values()) <= machine.memory
    assert found.operations == pytest.approx(2.5 * TOKENS.step(4, how).operations)


def test_fsdp_where_a_model_fits_into_no_gpu_alone():
    how = How(kernels="cuda")
    both = [needed(1, How(kernels="cuda", processes=4, strategy=s), False) for s in ("ddp", "fsdp")]
    assert both[1] < both[0]
    found = fit(TOKENS, Wish(1e6, batch_size=4), how, gpu((both[0] + both[1]) / 2, 4))
    assert (found.how.strategy, found.how.processes) == ("fsdp", 4)
    assert both[1] < needed(1, how, False)
    with pytest.raises(ValueError, match=r"it fits into [24] GPUs"):
        fit(TOKENS, Wish(1e6, batch_size=1), how, gpu(both[1]))
    with pytest.raises(ValueError, match="no number of GPUs"):
        fit(TOKENS, Wish(1e6, batch_size=1), how, gpu(1e4))
    with pytest.raises(ValueError, match="it fits into"):
        fit(TOKENS, Wish(1e6, batch_size=8, micro_batch_size=8), how, gpu(needed(2, how, True)))
