"""What a run was made on: revision of the code, versions of libraries, hardware. No host names and no paths."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """All of it, as files of results hold it."""
    return {"git_revision": git_revision(), "versions": library_versions(), "hardware": hardware()}


def git_revision() -> str | None:
    """The commit of the clone that this file belongs to, with "-dirty" for uncommitted changes; None outside a clone.

    An installed copy may lie inside somebody else's clone (a virtual environment in a project folder), so the file
    itself must be tracked.
    """
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    revision = _git(here.parent, "rev-parse", "HEAD")
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{revision}-dirty" if revision and changes else revision


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def library_versions() -> dict[str, str]:
    """Versions of Python, of this package and of the installed libraries that can move a figure."""
    versions = {"python": platform.python_version()}
    for name in ("sllm", "torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy", "nltk"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Processor, cores, threads, memory and GPUs, in words that name no host and no path."""
    import torch  # here, because reading and tabulating metrics must not wait for it

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if not gpus and torch.backends.mps.is_available():
        gpus = ["Apple GPU (MPS)"]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1) if memory else None,
        "gpus": gpus,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model", "Hardware")) and ":" in line:
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()
