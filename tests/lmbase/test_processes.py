"""A process of a group ends with its work done, whatever threads still wait; any other goes on."""

import subprocess
import sys

import pytest

from lmbase import processes


def run(*lines):
    """A fresh interpreter in which a few lines stand for PyTorch."""
    code = "\n".join(["import atexit, sys, threading, types", *lines])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)


def torch(initialized):
    return (
        "told = lambda: print('group left')",
        f"group = types.SimpleNamespace(is_initialized=lambda: {initialized}, destroy_process_group=told)",
        "sys.modules['torch'] = types.SimpleNamespace(distributed=group)",
    )


LEAVE = ("from lmbase.processes import leave_processes", "leave_processes()")


def test_without_torch_or_without_a_group_nothing_ends():
    done = run(*LEAVE, "print('torch' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    done = run(*torch(False), *LEAVE, "print('goes on')")
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr


def test_a_process_of_a_group_ends_well_with_all_that_was_to_be_done_at_its_end():
    """Output is flushed, and a thread that would never end, or abort, holds nothing up."""
    waiting = "threading.Thread(target=threading.Event().wait).start()"
    done = run(*torch(True), "atexit.register(print, 'tidied')", waiting, "print('work')", *LEAVE, "print('never')")
    assert (done.returncode, done.stdout) == (0, "work\ngroup left\ntidied\n"), done.stderr


@pytest.mark.parametrize(
    ("argv", "environment", "command"),
    [
        (["/usr/bin/sllm", "train-lm", "a b"], {}, "sllm train-lm 'a b'"),
        (
            ["recipes/train_lm.py", "--resume", "restart"],
            {},
            "python recipes/train_lm.py --resume restart --resume auto",
        ),
        (
            ["train_lm.py", "x"],
            {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "8"},
            "torchrun --nproc-per-node=8 train_lm.py x",
        ),
    ],
)
def test_the_command_that_continues_a_run_can_be_pasted(argv, environment, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    for name in ("TORCHELASTIC_RUN_ID", processes.COMMAND):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.resume_command() == command
