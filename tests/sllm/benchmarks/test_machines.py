"""How fast machines train: listed, given by hand, measured here, measured by a benchmark."""

import pytest
from designs import sentences, tokens

from lmbase.report.rows import Row, write_metrics
from sllm.benchmarks.machines import USABLE, Benchmarked, Here, Listed, Pace, benchmarked, machine_for
from sllm.benchmarks.planning import How

TOKENS = tokens()
NONE: dict[str, float | None] = dict(tflops=None, gigabytes=None, bandwidth=None)


def test_this_machine_is_measured_on_shallow_models_where_a_whole_one_takes_long(monkeypatch):
    here = Here("cpu")
    built: list[tuple[int, int]] = []

    def measured(self, design, windows, how):
        built.append((design.num_blocks, windows))
        return Pace(1.0, 0.5, True)

    monkeypatch.setattr("lmbase.benchmarking.roofline.Machine.matrix_rate", 1e9)
    monkeypatch.setattr(Here, "_measured", measured)
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
    assert isinstance(mine, Listed)
    assert (mine.gpu.rate(True), mine.number, mine.memory) == (1e14, 2, USABLE * 24e9)
    faster = machine_for(["l4"], "bf16", 0.4, {**NONE, "tflops": 100.0})
    assert isinstance(faster, Listed)
    assert (faster.gpu.rate(True), faster.gpu.gigabytes) == (1e14, 24)
    assert "but for tflops, given by hand" in faster.said(True)[0]  # which no data sheet says
    rows = [
        Row(
            name, protocol="train 2000", dtype="fp32", device="cpu", tokens_per_second=1000.0, extra={"step_flops": 4e9}
        )
        for name in ("OPT tiny", "autoencoder tiny", "SLLM tiny")
    ]
    write_metrics(tmp_path, rows, config={}, seed=0, wall_seconds=1, corpus=None)
    found = machine_for([str(tmp_path)], "fp32", 0.4, NONE)
    assert isinstance(found, Benchmarked)
    assert found.rates == {"token level": 2e9, "SLLM": 2e9}
    for design in (TOKENS, sentences()):
        assert found.pace(design, 3, How()).micro_batch == design.formula(3) / 2e9
    for measured, name in ((str(tmp_path), "tflops"), (str(tmp_path), "bandwidth"), ("here", "gigabytes")):
        with pytest.raises(ValueError, match=f"is measured, and {name}=9 would not count"):
            machine_for([measured], "fp32", 0.4, {**NONE, name: 9.0})
    with pytest.raises(ValueError, match="--dtype bf16"):
        benchmarked(str(tmp_path), 1, "bf16", None)
