"""This process among others: the signals that stop it, and the group of processes that `torchrun` started."""

import atexit
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lmbase.standard_output import lines_may_be_lost

# Ctrl-C, an end that a scheduler asks for, the warning before it, a terminal that is closed.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
COMMAND = "SLLM_COMMAND"  # in the environment of processes that `launch` started: how it was called
stopped_by: list[int] = []  # those that reached this process


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop."""

    def __init__(self, number: int, message: str = "") -> None:
        self.number = number
        super().__init__(message or f"Stopped by {signal.Signals(number).name}.")

    @property
    def status(self) -> int:
        """Of the process: 130 after Ctrl-C, 143 after any other signal."""
        return 130 if self.number == signal.SIGINT else 143


@contextmanager
def signals_handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[bool]:
    """Within this context `handle` is called on each signal that asks a process to stop; a SIGHUP that `nohup` has
    closed off stays so. False in other threads than the main one, where signals cannot be caught and nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    caught = [n for n in STOPPING if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    previous = [(number, signal.signal(number, handle)) for number in caught]
    try:
        yield True
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Raise `Stopped`. What follows it does not disturb the tidying up, except Ctrl-C."""
    first = not stopped_by
    stopped_by.append(number)
    if first or number == signal.SIGINT:
        raise Stopped(number)


def tell_stopped(error: KeyboardInterrupt, continues: bool = True) -> int:
    """Say, in the first process, how to go on, if the same command `continues`. Returns the status to end with."""
    stop = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
    if os.environ.get("RANK", "0") == "0":
        with lines_may_be_lost():
            print(f"\n{stop}" + f" To continue:\n  {resume_command()}" * continues, file=sys.stderr)
    return stop.status


def resume_command() -> str:
    """The command line of this process, such that it can be pasted into a shell to continue the run."""
    script, *arguments = shlex.split(os.environ[COMMAND]) if COMMAND in os.environ else sys.argv
    words = ["python", script] if script.endswith(".py") else [Path(script).name]
    if "TORCHELASTIC_RUN_ID" in os.environ and COMMAND not in os.environ:
        words = ["torchrun", f"--nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', '1')}", *words[-1:]]
    command = shlex.join([*words, *arguments])
    return f"{command} --resume auto" if "restart" in command else command


def join_processes(device: str) -> None:
    """Join the processes that `torchrun` started, if it did. Called again it does nothing.

    Args:
        device: what they compute on, as a recipe's key `device` names it.

    Raises:
        ValueError: they do not find each other, so that each would do all of the work.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted == 1 and "accelerate" not in sys.modules:  # nobody will ask
        return
    import torch  # here, because a command line must not wait for it
    from accelerate import PartialState

    found = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available()).num_processes
    if found != wanted:
        raise ValueError(
            f"WORLD_SIZE={wanted}, but this process is one of {found}: start all of them with torchrun, or unset RANK, "
            "LOCAL_RANK and WORLD_SIZE."
        )


def launch(number: int, module: str, arguments: list[str]) -> NoReturn:
    """Run a module in processes on this machine as torchrun does, and end as they end: with their status, and without
    a traceback of the launcher's own."""
    os.environ[COMMAND] = shlex.join(sys.argv)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable(logging.CRITICAL)  # of the launcher: its processes speak for themselves
    status = 0
    try:
        given = parse_args(["--standalone", f"--nproc-per-node={number}", "-m", module, *arguments])
        given.signals_to_handle = ",".join(number.name for number in STOPPING)
        run(given)
    except SignalException as error:
        status = Stopped(error.sigval).status
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        status = code if code > 0 else 128 - code
    raise SystemExit(status)


def leave_processes(status: int = 0) -> None:
    """End this process if it is one of a group whose work is done.

    An ordinary end is not safe: now and then PyTorch's own threads abort it (2.11 and 2.13, gloo), and torchrun would
    report a finished run as failed.
    """
    if "torch" not in sys.modules:
        return
    import torch

    if not torch.distributed.is_initialized():
        return
    if not status:  # or others may be gone, and it would wait for them
        torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
