"""Running a recipe from the command line: its configuration, its processes, its messages and its exit status."""

import errno
import inspect
import os
import sys
import tempfile
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lmbase.config.command_line import load_config
from lmbase.files import DISK_FULL, verification
from lmbase.processes import (
    Stopped,
    join_processes,
    leave_processes,
    signals_handled,
    stop_at_once,
    stopped_by,
    tell_stopped,
)
from lmbase.standard_output import lines_may_be_lost, output_taken

ConfigT = TypeVar("ConfigT")
MainT = TypeVar("MainT", bound=Callable[..., Any])


def single_process(main: MainT) -> MainT:
    """Marks a recipe whose work is done once: of the processes that `torchrun` started, `run` goes on in the first."""
    vars(main)["single_process"] = True
    return main


def class_of_keys(recipe: ModuleType, argv: Sequence[str]) -> type:
    """The dataclass of a recipe's keys: what its `main` takes, or what its `config_class` makes of a command line."""
    if hasattr(recipe, "config_class"):
        return recipe.config_class(argv)
    return next(iter(typing.get_type_hints(recipe.main).values()))


def run(cls: type[ConfigT], main: Callable[[ConfigT], Any], argv: Sequence[str] | None = None) -> None:
    """Run a recipe from the command line: read the configuration, call `main`, turn a user's mistake into one message.

    Leaves with status 2 after a ValueError, OSError or FloatingPointError (a traceback only with SLLM_TRACEBACK=1),
    with 130 after Ctrl-C and 143 after SIGTERM, SIGUSR1 or SIGHUP, with the command that continues. A key `verify` says
    whether folders are compared with their checksums when they are opened. Shipped YAML files
    are looked for in the folder `configs` beside the module of `cls`.
    """
    if getattr(main, "single_process", False):
        if int(os.environ.get("RANK", "0")) > 0:
            return
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)  # or something below would wait for the processes that have left
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    rank = f"rank {os.environ.get('RANK', '0')}: " if several else ""
    status = 0
    stopped_by.clear()
    try:
        with signals_handled(stop_at_once), output_taken():
            configs = Path(inspect.getfile(cls)).parent / "configs"
            config = load_config(cls, sys.argv[1:] if argv is None else argv, configs)
            if "transformers" in sys.modules:  # its bars for loading one small file would hide what a recipe says
                sys.modules["transformers"].utils.logging.disable_progress_bar()
            if hasattr(config, "device"):
                join_processes(config.device)
            with verification(getattr(config, "verify", True)), _compiler_told():
                main(config)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("SLLM_TRACEBACK") == "1":
            traceback.print_exc()
        with lines_may_be_lost():
            print(f"{rank}error: {told(error)}\n(SLLM_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        status = 2
    except KeyboardInterrupt as error:
        status = tell_stopped(error)
    except SystemExit:
        raise
    except BaseException:  # what a signal interrupts may raise something else, as extension modules do
        if not stopped_by:
            raise
        stop = Stopped(stopped_by[0])
        # Of several, another process went first, and could not be reached any more.
        status = stop.status if several else tell_stopped(stop)
    if several:
        leave_processes(status)
    if status:
        raise SystemExit(status)


@contextmanager
def _compiler_told() -> Iterator[None]:
    """Within this context a compiler without room for its files is told as other full disks are: PyTorch wraps the
    error, and what it calls tells it in words."""
    try:
        yield
    except Exception as error:
        full = next((number for number in DISK_FULL if os.strerror(number) in str(error)), None)
        if full is None or not type(error).__module__.startswith("torch._"):
            raise
        place = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
        message = (
            "No space left on the disk for what torch.compile writes. Free some, have TORCHINDUCTOR_CACHE_DIR and "
            "TMPDIR name other places, or leave compile out; then give the same command again"
        )
        raise OSError(full, message, place) from error


def told(error: Exception) -> str:
    """What a user is told of an error that is none of the program's."""
    if isinstance(error, OSError) and error.errno in DISK_FULL and error.strerror == os.strerror(error.errno):
        where = f"{error.filename}: " if error.filename else ""  # unless it was put into words where it happened
        return f"{where}No space is left on the disk. Free some, then give the same command again."
    if isinstance(error, OSError) and error.errno == errno.EROFS and error.filename:
        return f"{error.filename}: this disk can only be read. Name another place, or have it mounted for writing."
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return f"{error.filename}: a file stands where a folder is to be. Name another output_dir, or move the file."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
