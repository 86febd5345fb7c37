"""What a plan is made for: GPUs from a list, this machine, or one that `sllm benchmark` measured. How much memory there
is, and how long the passes of a training take.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmbase.benchmarking.accelerators import Accelerator, listed, parse_gpus
from lmbase.benchmarking.environment import hardware
from lmbase.benchmarking.peak_memory import free_bytes
from lmbase.benchmarking.roofline import Machine
from lmbase.modeling.devices import DTYPES, choose_device, moved
from lmbase.report.formats import number, size
from lmbase.report.rows import read_metrics
from lmbase.training.pace import Clock, pass_seconds, update_seconds
from sllm.benchmarks.planning import Design, How

HERE = "here"
USABLE = 0.92  # of a GPU's memory; the rest is the driver's, and what lies between tensors
USABLE_HERE = 0.9  # of what is free now
UTILISATION = 0.35  # of a listed rate, if nothing better is known: training reaches 0.2 to 0.5
PASS_SECONDS = 2.0  # a pass that is longer is measured on two shallow models
MOST_SECONDS = 8.0  # nor is that, if it takes longer
MOVED = 7  # values that AdamW reads and writes for each weight


@dataclass(frozen=True)
class Pace:
    """Seconds of one process: of a micro-batch forward and backward, and of the update that ends a step."""

    micro_batch: float
    update: float
    measured: bool = False


@dataclass(frozen=True)
class Listed:
    """GPUs whose rates are known: from a data sheet, or given by hand."""

    gpu: Accelerator
    number: int
    utilisation: float = UTILISATION
    kernels = "cuda"

    @property
    def memory(self) -> float:
        return USABLE * 1e9 * self.gpu.gigabytes

    @property
    def bandwidth(self) -> float:
        return 1e9 * self.gpu.bandwidth

    def pace(self, design: Design, windows: int, how: How) -> Pace:
        rate = self.utilisation * self.gpu.rate(how.dtype == "bf16")
        operations = design.step(windows, how).operations
        held = sum(weight.nbytes for weight in design.outline.parameters() if weight.requires_grad)
        shared = how.processes if how.strategy == "fsdp" else 1
        return Pace(operations / rate, MOVED * held / shared / self.bandwidth if self.gpu.bandwidth else 0.0)

    def said(self, bf16: bool) -> list[str]:
        """What a reader should know of these figures."""
        gpu, rate = self.gpu, self.gpu.rate(bf16) / 1e12
        kind = "bf16" if bf16 and gpu.bf16 else "fp32"
        lines = [
            f"{self.number} x {gpu.name}: {number(rate)} TFLOP/s in {kind}, {gpu.gigabytes:g} GB, {gpu.bandwidth:g} "
            f"GB/s ({gpu.source}); {USABLE:.0%} of the memory is planned with",
            f"assumed: training reaches {self.utilisation:.0%} of that rate (--utilisation); `sllm benchmark --subset "
            "train` there measures it, and --gpus FOLDER takes what it found",
        ]
        if bf16 and not gpu.bf16:
            lines.append(f"{gpu.name} has no units for bf16: its fp32 rate is taken, and --dtype fp32 is no slower")
        return lines


class Here:
    """This machine, measured when it is asked: large products, then passes of a real model, which may be a shallow one.

    Args:
        device: auto, cpu, cuda.
        clock: of passes and updates.
    """

    def __init__(self, device: str = "auto", number: int = 1, clock: Clock = time.perf_counter):
        self.device, self.number, self.clock = choose_device(device), number, clock
        self.kernels = self.device.partition(":")[0]
        if number > 1 and self.kernels != "cuda":
            raise ValueError(f"gpus=here x{number}: this machine has no GPUs; leave the number out.")
        self._machines: dict[str, Machine] = {}

    def machine(self, dtype: str) -> Machine:
        return self._machines.setdefault(dtype, Machine(DTYPES[dtype], self.device))

    @property
    def memory(self) -> float:
        return USABLE_HERE * (free_bytes(self.device) or 1e9 * (hardware()["memory_gib"] or 8))

    @property
    def bandwidth(self) -> float:
        return self.machine("fp32").read_rate

    def pace(self, design: Design, windows: int, how: How) -> Pace:
        """Measured on as many windows and blocks as take about two seconds, and multiplied."""
        of_window = design.step(1, how).operations / self.machine(how.dtype).matrix_rate  # seconds at best
        num = min(windows, int(PASS_SECONDS / of_window))
        if num or design.num_blocks < 3:
            found = self._measured(design, max(num, 1), how)
            return Pace(found.micro_batch * windows / max(num, 1), found.update, True)
        shallow = [design.with_blocks(1), design.with_blocks(2)]
        if shallow[1].step(1, how).operations / self.machine(how.dtype).matrix_rate > MOST_SECONDS:
            held = sum(weight.nbytes for weight in design.outline.parameters() if weight.requires_grad)
            return Pace(windows * of_window / UTILISATION, MOVED * held / self.bandwidth)
        one, two = (self._measured(of, 1, how) for of in shallow)
        more = design.num_blocks - 1  # blocks beyond the first
        once = one.micro_batch + more * max(two.micro_batch - one.micro_batch, 0)
        return Pace(windows * once, one.update + more * max(two.update - one.update, 0), True)

    def _measured(self, design: Design, windows: int, how: How) -> Pace:
        model: Any = moved(design.build(), self.device)
        passes = pass_seconds(model, design.windows(windows), how.dtype, clock=self.clock)
        return Pace(passes, update_seconds(model, clock=self.clock), True)

    def said(self, bf16: bool) -> list[str]:
        found, dtype = hardware(), "bf16" if bf16 else "fp32"
        name = found["gpus"][0] if self.kernels == "cuda" else f"{found['cpu']}, {found['threads']} threads"
        return [
            f"this machine ({name}), measured now: {number(self.machine(dtype).matrix_rate / 1e9)} GFLOP/s in large "
            f"{dtype} products, {number(self.bandwidth / 1e9)} GB/s from memory; {size(self.memory)} are planned with",
        ]


@dataclass(frozen=True)
class Benchmarked:
    """A machine that `sllm benchmark --subset train` measured: what its rows of both kinds of models reached."""

    name: str
    rates: dict[str, float]  # FLOP/s of training, by the beginning of a model's name
    gpu: Accelerator
    number: int
    kernels: str

    @property
    def memory(self) -> float:
        return Listed(self.gpu, 1).memory

    @property
    def bandwidth(self) -> float:
        return 1e9 * self.gpu.bandwidth

    def pace(self, design: Design, windows: int, how: How) -> Pace:
        # By formula, as the benchmark counts them; the update is in its seconds.
        return Pace(design.formula(windows) / self.rates[design.name], 0.0, True)

    def said(self, bf16: bool) -> list[str]:
        reached = ", ".join(f"{name} {number(rate / 1e9)} GFLOP/s" for name, rate in self.rates.items())
        return [f"{self.number} x {self.gpu.name}, as {self.name} measured it: training reaches {reached}"]


def benchmarked(folder: str, number: int, dtype: str, gigabytes: float | None) -> Benchmarked:
    """The machine that a folder of `sllm benchmark` was measured on.

    Raises:
        ValueError: no such measurement, or one that does not tell how much memory there is.
    """
    found = read_metrics(folder)
    rows = [row for row in found["rows"] if (row.protocol or "").startswith("train ") and row.dtype == dtype]
    rates: dict[str, float] = {}
    for row in rows:
        tokens = int((row.protocol or "").split()[1])
        kind = "SLLM" if row.model.startswith("SLLM") else "token level"
        if not row.model.startswith("autoencoder"):  # the largest size is the last
            rates[kind] = row.extra["step_flops"] * (row.tokens_per_second or 0) / tokens
    if set(rates) != {"SLLM", "token level"}:
        raise ValueError(
            f"gpus={folder!r} has no training steps in {dtype}: run sllm benchmark --subset train --dtype {dtype} "
            "there, or give its --dtype."
        )
    gpus, memory = found["hardware"]["gpus"], found["hardware"]["memory_gib"]
    on_gpu = any((row.device or "").startswith("cuda") for row in rows)
    name = gpus[0] if on_gpu and gpus else found["hardware"]["cpu"]
    if gigabytes is None and on_gpu:
        try:
            gigabytes = listed(parse_gpus([name])[0]).gigabytes
        except ValueError:
            raise ValueError(f"gpus={folder!r} was measured on {name}: say its memory, --gpu_gigabytes.") from None
    gpu = Accelerator(name, None, 0.0, gigabytes or memory * 1.073, 0.0, folder)
    return Benchmarked(folder, rates, gpu, number, "cuda" if on_gpu else "cpu")


def _check_unmeasured(words: Sequence[str], given: dict[str, float], unknown: set[str]) -> None:
    """Raise ValueError for a rate that is given by hand where it is measured; `unknown` are those that are not."""
    for name in given.keys() - unknown:
        raise ValueError(
            f"gpus={' '.join(words)!r} is measured, and {name}={given[name]:g} would not count: leave it out, or name "
            "a GPU that is not listed."
        )


def machine_for(
    words: Sequence[str], dtype: str, utilisation: float, by_hand: dict[str, float | None]
) -> Listed | Here | Benchmarked:
    """What `--gpus` names.

    Args:
        by_hand: rates that are given: tflops, gigabytes, bandwidth, or None.

    Raises:
        ValueError: a kind that is not listed, a wrong number, or rates that are not all given, or are measured.
    """
    given = {name: value for name, value in by_hand.items() if value is not None}
    if words and (Path(words[0]) / "metrics.json").is_file():
        _check_unmeasured(words, given, {"gigabytes"})
        kind, count = parse_gpus(["gpu", *words[1:]]) if len(words) > 1 else ("", 1)
        return benchmarked(words[0], count, dtype, by_hand["gigabytes"])
    kind, count = parse_gpus(words)
    tflops, gigabytes, bandwidth = (by_hand[name] for name in ("tflops", "gigabytes", "bandwidth"))
    if kind == HERE:
        _check_unmeasured(words, given, set())
        return Here("auto", count)
    if tflops and gigabytes:
        gpu = Accelerator(kind, tflops, tflops, gigabytes, bandwidth or 0.0, "given by hand")
    else:
        gpu = listed(kind)
        if given:
            gpu = replace(gpu, source=f"{gpu.source}, but for {' and '.join(given)}, given by hand")
        if tflops:
            gpu = replace(gpu, bf16=tflops, fp32=tflops)
        gpu = replace(gpu, gigabytes=gigabytes or gpu.gigabytes, bandwidth=bandwidth or gpu.bandwidth)
    return Listed(gpu, count, utilisation)
