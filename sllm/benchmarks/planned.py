"""Is a plan right? What `sllm plan` tells of some training steps beside what they take (subset `plan`)."""

import functools
import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from pydantic import PositiveInt

from lmbase.benchmarking.peak_memory import in_own_process, peak, start_of_peak
from lmbase.benchmarking.timing import ratio_columns, spread_columns
from lmbase.config import option
from lmbase.report.rows import Row
from lmbase.training.batches import Batch
from lmbase.training.loop import Hooks, TrainingConfig, TrainingData, train
from lmbase.training.pace import Clock, processor_clock
from sllm.benchmarks.keys import Part, SizeKeys, TimedKeys, measured
from sllm.benchmarks.machines import Here
from sllm.benchmarks.planning import Design, How, SentenceDesign, TokenDesign, assumed_lengths, config_of

STEPS = 4  # of a training: the first is left out
MEMORY = (("num_memory_states", 4), ("num_memory_tokens", 64))  # as shipped configurations have it


@dataclass
class Planned(SizeKeys, TimedKeys):
    """A plan beside a training: peak memory, and seconds of a step."""

    windows: PositiveInt = option(2, "of a micro-batch of the subset plan, of which a step has two")
    context: PositiveInt = option(256, "positions of its windows of the token-level model")
    max_sentences: PositiveInt = option(24, "sentences of its windows of the SLLM")

    QUICK = {"context": 64, "max_sentences": 6}

    def measure(self) -> Iterator[Part]:
        for size in self.size:
            for design in self.designs(size):
                yield functools.partial(measured, functools.partial(self.rows, size, design))

    def designs(self, size: str) -> list[Design]:
        trunk = config_of(f"random:{size}")
        trunk.vocab_size = self.vocab_size
        lengths = assumed_lengths(10.0, 64)
        options = (*MEMORY, ("max_sentences", self.max_sentences))
        return [SentenceDesign(trunk, lengths, options), TokenDesign(trunk, lengths, self.context)]

    def rows(self, size: str, design: Design) -> list[Row]:
        """Predicted and measured, in turns, each in a process of its own."""
        how = How(self.dtype, self.device.partition(":")[0])
        memory = design.training_memory(self.windows, how, again=True)
        predicted, taken, peaks = [], [], []
        for _ in range(self.rounds):
            predicted.append(in_own_process(self.predict, design, how))
            peak_bytes, seconds = in_own_process(self.train, design)
            taken.append(seconds)
            peaks.append(peak_bytes)
        extra: dict[str, Any] = {"predicted_megabytes": sum(memory.values()) / 1e6}
        extra |= {"peak_megabytes": median(peaks) / 1e6, "memory_ratio": sum(memory.values()) / median(peaks)}
        extra |= {"predicted_seconds": median(predicted)} | spread_columns("seconds_per_step", taken)
        extra |= ratio_columns("time_ratio", predicted, taken)
        extra["step_flops"] = 2 * design.step(self.windows, how, again=True).operations
        name, parameters = f"{design.name} {size}", sum(design.parameters().values())
        tokens = round(2 * self.windows * design.window_tokens)
        return [self.row(name, f"plan of steps of {tokens} tokens", extra, parameters=parameters)]

    @property
    def clock(self) -> Clock:
        """On a CPU other programs' seconds are left out of both."""
        return processor_clock if self.device == "cpu" else time.perf_counter

    def predict(self, design: Design, how: How) -> float:
        """Seconds of a step, as a plan for this machine has them."""
        pace = Here(self.device, clock=self.clock).pace(design, self.windows, how)
        return 2 * pace.micro_batch + pace.update

    def train(self, design: Design) -> tuple[int, float]:
        """Bytes at the peak of a real training in this process, and the median seconds of its steps."""
        self._steps(design.small())  # libraries load on first use
        gc.collect()
        before = start_of_peak(self.device)
        seconds = median(np.diff(self._steps(design))[1:])
        return peak(self.device) - before, float(seconds)

    def _steps(self, design: Design) -> list[float]:
        """When each step of a training began."""
        moments: list[float] = []

        def note(model: Any, step: int) -> None:
            moments.append(self.clock())
            if step == STEPS:  # before anything is written
                raise _Enough

        with tempfile.TemporaryDirectory() as folder:
            config = TrainingConfig(
                output_dir=folder,
                device=self.device,
                dtype=self.dtype,
                batch_size=2 * self.windows,
                micro_batch_size=self.windows,
                max_steps=STEPS + 1,
                log_every=1000,
            )
            with suppress(_Enough):
                train(design.build(), TrainingData(_Windows(design)), config, folder, Hooks(_keep_nothing, None, note))
        return moments


class _Enough(Exception):
    """All steps were timed."""


class _Windows:
    """As many full windows as are asked for."""

    def __init__(self, design: Design):
        self.design = design

    def __len__(self) -> int:
        return 1000

    def batch(self, indices: np.ndarray) -> Batch:
        return self.design.windows(len(indices))


def _keep_nothing(model: Any, folder: Path) -> None:
    raise AssertionError("a training that is timed ends before it is saved")
