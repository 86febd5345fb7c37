"""Peak memory of a piece of work, measured in a process of its own: what was there before would be taken for free."""

import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

ResultT = TypeVar("ResultT")
# With fixed thresholds, memory goes back to the system when it is freed, so that the resident set shows what lives.
THRESHOLDS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def in_own_process(work: Callable[..., ResultT], *arguments: object) -> ResultT:
    """What a function of a module, or a method of an object that can be pickled, returns in a process of its own.

    Raises:
        ValueError: the process died, for want of memory perhaps. Whatever `work` raises is raised here, too.
    """
    before = dict(os.environ)
    os.environ.update(THRESHOLDS)  # read when a process starts
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result()
    except (BrokenProcessPool, SystemExit) as error:
        raise ValueError(f"Measuring in a process of its own failed, for want of memory perhaps: {error}") from error
    finally:
        for name in THRESHOLDS:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in THRESHOLDS if name in before})


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


def free_bytes(device: str) -> int | None:
    """What a device has left for a process that begins; None where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[0]
    told = Path("/proc/meminfo")
    match = re.search(r"MemAvailable:\s+(\d+) kB", told.read_text()) if told.exists() else None
    return int(match[1]) * 1024 if match else None
