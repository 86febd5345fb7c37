"""Where a run's figures go besides its log: TensorBoard or wandb, one curve each for a run however often it goes on."""

import os
import socket
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelerate import Accelerator

from lmbase.files import write_text

WANDB_RUN = "wandb_run"  # in a run's folder: its id there
SECONDS_TO_REACH = 5.0
SECONDS_TO_BEGIN = 30.0


def start_tracker(accelerator: Accelerator, name: str, config: Mapping[str, Any], folder: Path, step: int) -> None:
    """Open the tracker the user asked for. wandb works without a network and an account: the run is then kept in
    `folder`, and `wandb sync` uploads it later.

    Args:
        step: the run goes on after it; what was logged of later steps is replaced.
    """
    if name == "none":
        return
    init: dict[str, dict[str, Any]] = {}
    if name == "tensorboard" and step:
        init["tensorboard"] = {"purge_step": step + 1}
    if name == "wandb" and accelerator.is_main_process:
        init["wandb"] = {"dir": str(folder), "name": folder.name, "id": _wandb_id(folder), "resume": "allow"}
        init["wandb"]["settings"] = {"init_timeout": SECONDS_TO_BEGIN}
        if not os.environ.get("WANDB_MODE") and (reason := _why_offline()):
            _keep_here(reason, folder)
    simple: dict[str, Any] = {
        key: value if isinstance(value, int | float | str | bool) else str(value) for key, value in config.items()
    }
    if "tensorboard" in init:  # has them already, and would open another run for them
        simple = {}
    try:
        accelerator.init_trackers("sllm", config=simple or None, init_kwargs=init)
    except Exception as error:  # a refused key, a server that does not answer
        if name != "wandb" or os.environ.get("WANDB_MODE") == "offline":
            raise
        _keep_here(str(error), folder)
        accelerator.init_trackers("sllm", config=simple or None, init_kwargs=init)


def _keep_here(reason: str, folder: Path) -> None:
    os.environ["WANDB_MODE"] = "offline"
    print(f"wandb: {reason}; the run is kept in {folder}/wandb, and `wandb sync` uploads it later.", file=sys.stderr)


def _wandb_id(folder: Path) -> str:
    """One for a run, however often it goes on."""
    path = folder / WANDB_RUN
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8")


def _why_offline() -> str | None:
    """wandb itself tries for 90 seconds and then raises."""
    if not os.environ.get("WANDB_API_KEY") and not _has_wandb_login():
        return "no account here"
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return None  # a proxy may reach what this machine does not
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    address = (server.hostname or "", server.port or (80 if server.scheme == "http" else 443))
    try:
        socket.create_connection(address, timeout=SECONDS_TO_REACH).close()
    except OSError as error:
        return f"{address[0]} cannot be reached ({error})"
    return None


def _has_wandb_login() -> bool:
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return "wandb" in netrc.read_text(encoding="utf-8", errors="ignore")
    except OSError:
        return False
