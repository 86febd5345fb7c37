"""Machines and trainings that fit into them: strategy, accumulation, time, and what is told where nothing fits."""

import json

import pytest
from designs import sentences, tokens

from lmbase.benchmarking.accelerators import Accelerator
from lmbase.report.rows import Row, write_metrics
from sllm.benchmarks.fitting import Wish, fit
from sllm.benchmarks.machines import USABLE, Here, Listed, Pace, benchmarked, machine_for
from sllm.benchmarks.planning import How

TOKENS = tokens()
NONE = dict(tflops=None, gigabytes=None, bandwidth=None)


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


def test_this_machine_is_measured_on_shallow_models_where_a_whole_one_takes_long(monkeypatch):
    here, built = Here("cpu"), []
    monkeypatch.setattr("lmbase.benchmarking.roofline.Machine.matrix_rate", 1e9)
    monkeypatch.setattr(Here, "_measured", lambda self, design, n, how: built.append((design.num_blocks, n)) or TIMES)
    TIMES = Pace(1.0, 0.5, True)
    deep = TOKENS.with_blocks(9)
    assert here.pace(deep, 10**6, How()).micro_batch > 1  # as many windows as two seconds have
    assert built.pop() == (9, int(2.0 * 1e9 / deep.step(1, How()).operations))
    monkeypatch.setattr("sllm.benchmarks.machines.PASS_SECONDS", 1e-9)
    assert here.pace(deep, 64, How()) == Pace(64.0, 0.5, True)  # blocks beyond the first took no time
    assert built == [(1, 1), (2, 1)]
    monkeypatch.setattr("sllm.benchmarks.machines.MOST_SECONDS", 1e-9)
    assert not here.pace(deep, 2, How()).measured
    with pytest.raises(ValueError, match="no GPUs"):
        machine_for(["here", "x2"], "fp32", 0.3, NONE)


def test_rates_given_by_hand_and_rates_of_a_benchmark(tmp_path):
    mine = machine_for(["mine", "x2"], "bf16", 0.4, dict(tflops=100.0, gigabytes=24.0, bandwidth=None))
    assert (mine.gpu.rate(True), mine.number, mine.memory) == (1e14, 2, USABLE * 24e9)
    assert machine_for(["l4"], "bf16", 0.4, NONE | {"tflops": 100.0}).gpu.rate(True) == 1e14
    rows = [
        Row(
            name, protocol="train 2000", dtype="fp32", device="cpu", tokens_per_second=1000.0, extra={"step_flops": 4e9}
        )
        for name in ("OPT tiny", "autoencoder tiny", "SLLM tiny")
    ]
    write_metrics(tmp_path, rows, config={}, seed=0, wall_seconds=1, corpus=None)
    found = machine_for([str(tmp_path)], "fp32", 0.4, NONE)
    assert found.rates == {"token level": 2e9, "SLLM": 2e9}
    for design in (TOKENS, sentences()):
        assert found.pace(design, 3, How()).micro_batch == design.formula(3) / 2e9
    with pytest.raises(ValueError, match="--dtype bf16"):
        benchmarked(str(tmp_path), 1, "bf16", None)
    assert json.loads((tmp_path / "metrics.json").read_text())["rows"]
