"""Peak memory of a piece of work, measured in a process of its own: what was there before would be taken for free."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def in_own_process(module: str, *arguments: str) -> Any:
    """Run `python -m module ARGUMENTS` and read its last line as JSON.

    Raises:
        ValueError: the process failed, for want of memory perhaps.
    """
    # With fixed thresholds, memory goes back to the system when it is freed, so that the resident set shows what lives.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"Measuring with {' '.join(command[1:])} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def start_of_peak(device: str) -> int:
    """Bytes in use now; the mark of the highest use starts anew here."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # Linux: the high-water mark of the resident set is set to its present size
    return peak(device)


def peak(device: str) -> int:
    """The most bytes in use since `start_of_peak`."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if match:
            return int(match[1]) * 1024
    import resource  # not on every system

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
