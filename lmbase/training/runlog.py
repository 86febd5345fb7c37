"""What passes between a run and the person at the terminal: log.jsonl, the progress line, trackers, Ctrl-C."""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from accelerate import Accelerator
from tqdm import tqdm

from lmbase.benchmarking.peak_memory import peak
from lmbase.durations import duration
from lmbase.files import from_lines, to_line, write_text
from lmbase.processes import Stopped, signals_handled, stopped_by
from lmbase.standard_output import lines_may_be_lost

FoundT = TypeVar("FoundT")
SECONDS_BETWEEN_LINES = 30.0  # where nobody watches (a file, a pipe), a line now and then is enough
STEPS_TO_WARM_UP = 2  # of a run: slower than all that follow, by ten times and more
STEPS_TO_KNOW = 10  # after which the time left is worth telling
PACE_STEPS = 100  # the newest steps say how fast the rest will be
SECONDS_TO_AGREE = 20.0  # that processes have to stop together: a launcher kills them after 30


class RunLog:
    """Writes `log.jsonl`, shows the progress, hands figures to the tracker. Silent in all processes but the main one.

    Args:
        folder: the run's folder.
        accelerator: holds the tracker, if there is one.
        step: the step the run starts or continues from; lines of the log after it (of a run that was cut off) are
            dropped.
        max_steps: where it ends.
        eval_every: steps between its evaluations, whose time counts in the time left; 0: one at the end.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, step: int, max_steps: int, eval_every: int = 0) -> None:
        self.path = folder / "log.jsonl"
        self.accelerator = accelerator
        self.is_main = accelerator.is_main_process
        self.first_step, self.max_steps = step, max_steps
        self.eval_every = eval_every or max_steps
        self.pace: deque[float] = deque(maxlen=PACE_STEPS)  # seconds of the newest steps
        self.evaluation_seconds = 0.0  # of the newest evaluation
        self.last_line = time.monotonic()
        self.told = False
        watched = self.is_main and sys.stderr.isatty()
        self.text = ""  # of the newest line of the log
        self.bar = tqdm(
            total=max_steps,
            initial=step,
            dynamic_ncols=True,
            disable=not watched,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        if self.is_main:
            self._drop_lines_after(step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def advance(self, step: int, seconds: float) -> None:
        """A step was taken, in so many seconds."""
        if step - self.first_step > STEPS_TO_WARM_UP:
            self.pace.append(seconds)
        if not self.bar.disable:
            self.bar.set_postfix_str(self.text + self._left(step), refresh=False)
            self.bar.update(step - self.bar.n)

    def seconds_left(self, step: int) -> float | None:
        """How long steps and evaluations after this step will take; None while that is not known."""
        if step - self.first_step < STEPS_TO_KNOW or not self.pace:
            return None
        evaluations = -(-self.max_steps // self.eval_every) - step // self.eval_every
        return (self.max_steps - step) * sum(self.pace) / len(self.pace) + evaluations * self.evaluation_seconds

    def _left(self, step: int) -> str:
        seconds = self.seconds_left(step)
        return "" if seconds is None else f", {duration(seconds)} left"

    def training(self, record: dict[str, Any]) -> None:
        """Log one interval of training: at least step, loss, losses (by name) and tokens_per_second."""
        self._write(
            record, record["step"], record | {f"losses/{name}": value for name, value in record["losses"].items()}
        )
        step, memory = record["step"], peak(self.accelerator.device.type) / 2**30
        speed = f"{record['tokens_per_second']:,.0f} tokens/s"
        self.text = f"loss {record['loss']:.4g}, {speed}, {memory:.1f} GiB of memory"
        now = time.monotonic()
        first = not self.told and step - self.first_step >= STEPS_TO_KNOW
        if self.bar.disable and (first or now - self.last_line >= SECONDS_BETWEEN_LINES or step == self.max_steps):
            self.last_line, self.told = now, True
            self.say(f"step {step}/{self.max_steps}: {self.text}{self._left(step)}")

    def evaluation(self, step: int, figures: Mapping[str, float], seconds: float = 0.0) -> None:
        """Log what an evaluation gave, which took so many seconds."""
        self.evaluation_seconds = seconds
        self._write(
            {"step": step, "eval": dict(figures)}, step, {f"eval/{name}": value for name, value in figures.items()}
        )
        self.say(f"step {step}: " + ", ".join(f"{name} {value:.5g}" for name, value in figures.items()))

    def has_evaluation(self, step: int) -> bool:
        """Whether the log has what an evaluation at this step gave."""
        return any(record["step"] == step and "eval" in record for record in log_records(self.path))

    def say(self, text: str) -> None:
        """A line for the person, around the progress bar."""
        if self.is_main:
            with lines_may_be_lost():
                tqdm.write(text, file=sys.stderr)
                sys.stderr.flush()

    def _write(self, record: dict[str, Any], step: int, tracked: Mapping[str, Any]) -> None:
        if self.is_main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(to_line(record))
        self.accelerator.log(
            {name: value for name, value in tracked.items() if isinstance(value, int | float)}, step=step
        )

    def _drop_lines_after(self, step: int) -> None:
        if self.path.exists():
            kept = [to_line(record) for record in log_records(self.path) if record["step"] <= step]
            write_text(self.path, "".join(kept))


def log_records(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; those that are none, such as one that was being written when a run was killed, left out."""
    text = path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""
    records = [record for record in from_lines(text) if isinstance(record, dict)]
    return [record for record in records if isinstance(record.get("step"), int) and record["step"] >= 0]


class StopSignal:
    """Within this context a signal that asks the program to stop sets `requested` instead of ending it at once.

    A second Ctrl-C ends a single process at once. Several processes heed only the flag, because their launcher repeats
    signals; where they cannot agree to stop, because one of them is dead, each ends by itself. Signals can be caught
    in the main thread only; elsewhere nothing changes.

    Args:
        patient: this is one of several processes.
    """

    def __init__(self, patient: bool) -> None:
        self.number: int | None = None  # of the first signal
        self.patient = patient
        self._raises = False
        self._context = ExitStack()
        self._alone: threading.Timer | None = None

    @property
    def requested(self) -> bool:
        return self.number is not None

    def __enter__(self) -> "StopSignal":
        self._context.enter_context(signals_handled(self._request))
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        self.agreed()
        self._context.close()
        if kind is None:
            self.raise_if_requested()

    def agreed(self) -> None:
        """All processes know that they are to stop."""
        if self._alone:
            self._alone.cancel()

    def raise_if_requested(self) -> None:
        """
        Raises:
            Stopped: a signal came.
        """
        if self.number is not None:
            raise Stopped(self.number)

    def unless_stopped(self, act: Callable[[], FoundT]) -> FoundT | None:
        """What `act` gives; None if a signal came, which ends it at once."""
        try:
            try:
                self._raises = True
                self.raise_if_requested()
                return act()
            finally:
                self._raises = False
        except Stopped:
            return None

    def _request(self, number: int, frame: FrameType | None) -> None:
        again = self.requested
        stopped_by.append(number)
        self.number = self.number or number
        if not self.patient:
            if again and number == signal.SIGINT:
                raise Stopped(number)
            if not again and number == signal.SIGINT:
                text = "\nStopping after this step. Once more: stop at once, keeping the last checkpoint."
                with lines_may_be_lost():
                    print(text, file=sys.stderr)
        elif not again and number == signal.SIGTERM:
            status = Stopped(number).status
            self._alone = threading.Timer(SECONDS_TO_AGREE, lambda: os._exit(status))
            self._alone.daemon = True
            self._alone.start()
        if self._raises:
            raise Stopped(number)
