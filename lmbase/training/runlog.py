"""What passes between a run and the person at the terminal: log.jsonl, the progress line, trackers, Ctrl-C."""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from lmbase.files import from_lines, to_line, write_text

SECONDS_BETWEEN_LINES = 30.0  # where nobody watches (a file, a pipe), a line now and then is enough


class RunLog:
    """Writes `log.jsonl`, shows the progress, hands figures to the tracker. Silent in all processes but the main one.

    Args:
        folder: the run's folder.
        accelerator: holds the tracker, if there is one.
        step: the step the run starts or continues from; lines of the log after it (of a run that was cut off) are
            dropped.
        max_steps: where it ends.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, step: int, max_steps: int) -> None:
        self.path = folder / "log.jsonl"
        self.accelerator = accelerator
        self.is_main = accelerator.is_main_process
        self.first_step, self.max_steps = step, max_steps
        self.started = self.last_line = time.monotonic()
        watched = self.is_main and sys.stderr.isatty()
        self.bar = tqdm(
            total=max_steps, initial=step, unit="step", dynamic_ncols=True, disable=not watched, smoothing=0.05
        )
        if self.is_main:
            self._drop_lines_after(step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def advance(self, step: int) -> None:
        """Move the progress bar to `step`."""
        self.bar.update(step - self.bar.n)

    def training(self, record: dict[str, Any]) -> None:
        """Log one interval of training: at least step, loss, losses (by name) and tokens_per_second."""
        self._write(
            record, record["step"], record | {f"losses/{name}": value for name, value in record["losses"].items()}
        )
        text = f"loss {record['loss']:.4g}, {record['tokens_per_second']:,.0f} tokens/s"
        self.bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        due = now - self.last_line >= SECONDS_BETWEEN_LINES or record["step"] in (self.first_step + 1, self.max_steps)
        if self.bar.disable and due:
            self.last_line = now
            left = (self.max_steps - record["step"]) * (now - self.started) / max(record["step"] - self.first_step, 1)
            self.say(f"step {record['step']}/{self.max_steps}: {text}, {_duration(left)} left")

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """Log what an evaluation gave."""
        self._write(
            {"step": step, "eval": dict(figures)}, step, {f"eval/{name}": value for name, value in figures.items()}
        )
        self.say(f"step {step}: " + ", ".join(f"{name} {value:.5g}" for name, value in figures.items()))

    def say(self, text: str) -> None:
        """A line for the person, around the progress bar."""
        if self.is_main:
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
        if not self.path.exists():
            return
        kept = []
        for record in from_lines(self.path.read_text(encoding="utf-8", errors="replace")):
            with suppress(KeyError, TypeError):  # the line that was written when the run was cut off
                if isinstance(record, dict) and record["step"] <= step:
                    kept.append(to_line(record))
        write_text(self.path, "".join(kept))


class StopSignal:
    """Within this context Ctrl-C and SIGTERM set `requested` instead of ending the program at once.

    A single process ends at once on the second one. Several processes heed only the flag: their launcher repeats the
    signal. Signals can be caught in the main thread only; elsewhere nothing changes.
    """

    def __init__(self, patient: bool) -> None:
        self.requested = False
        self.patient = patient
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self.patient:
            raise KeyboardInterrupt
        if not self.requested and not self.patient:
            print("\nStopping after this step. Once more: stop at once, keeping the last checkpoint.", file=sys.stderr)
        self.requested = True


def start_tracker(accelerator: Accelerator, name: str, config: Mapping[str, Any], folder: Path) -> None:
    """Open the tracker the user asked for. wandb works without a network and an account: the run is then kept in
    `folder`, and `wandb sync` uploads it later."""
    if name == "none":
        return
    init: dict[str, dict[str, Any]] = {}
    if name == "wandb":
        if not os.environ.get("WANDB_API_KEY") and not _has_wandb_login():
            os.environ.setdefault("WANDB_MODE", "offline")
        init["wandb"] = {"dir": str(folder), "name": folder.name}
    simple = {
        key: value if isinstance(value, int | float | str | bool) else str(value) for key, value in config.items()
    }
    accelerator.init_trackers("sllm", config=simple, init_kwargs=init)


def resume_command() -> str:
    """The command line of this process, such that it can be pasted into a shell to continue the run."""
    script, *arguments = sys.argv
    words = ["python", script] if script.endswith(".py") else [Path(script).name]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        words = ["torchrun", f"--nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', '1')}", *words[-1:]]
    command = shlex.join([*words, *arguments])
    return f"{command} --resume auto" if "restart" in command else command


def _has_wandb_login() -> bool:
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return "wandb" in netrc.read_text(encoding="utf-8", errors="ignore")
    except OSError:
        return False


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{hours} h {minutes % 60} min"
