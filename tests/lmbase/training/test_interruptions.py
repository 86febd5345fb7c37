"""A run that is stopped, killed or fails to write at any moment goes on from its last save."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import toy_training
from disk_faults import ENDED, ERRORS, failing
from forks import own_progress_bars, skip_where_forks_cannot_train
from safetensors.torch import load_file
from soak import times, tried
from toy_training import ToyModel, interrupt_at, toy_train, weight_size

from lmbase.files import verify_folder
from lmbase.processes import Stopped, signals_handled, stop_at_once
from lmbase.training import checkpoint
from lmbase.training.checkpoint import newest_checkpoint
from lmbase.training.runlog import log_records

TIMES = ("seconds", "tokens_per_second")
KEYS: dict = dict(max_steps=12, save_every=3, eval_every=3, ema_decay=0.9, evaluate=weight_size)


class Killed(BaseException):
    """Stands for kill -9: nothing tidies up after it but what the operating system does."""


def lines(folder: Path) -> list[dict]:
    """The log without what a clock says."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in log_records(folder / "log.jsonl")]


def final(folder: Path) -> dict[str, torch.Tensor]:
    verify_folder(folder / "model")
    return load_file(folder / "model" / "model.safetensors")


def same(a: Path, b: Path) -> None:
    """Two runs ended alike, and nothing stray is left of either."""
    assert lines(a) == lines(b)
    one, other = final(a), final(b)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [path.name for path in b.rglob(".*") if path.name.endswith((".partial", ".replaced"))] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    toy_train(folder, ToyModel(dropout=0.2), **KEYS)
    return folder


# --- evaluations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 4])  # of the evaluation: at step 6, and the last one
def test_E6_an_evaluation_that_was_due_is_made_up_for(tmp_path, whole, number):
    called = []

    def killed(model):
        called.append(1)
        if len(called) == number:
            raise Killed
        return weight_size(model)

    with pytest.raises(Killed):
        toy_train(tmp_path, ToyModel(dropout=0.2), **KEYS | dict(evaluate=killed))
    assert not (tmp_path / "model").exists()
    toy_train(tmp_path, ToyModel(dropout=0.2), **KEYS)
    same(whole, tmp_path)
    toy_train(tmp_path, **KEYS | dict(evaluate=None))  # finished: nothing is left to make up for


@pytest.mark.parametrize("every", [3, 12])  # 12: no checkpoint had been due there
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_E8_a_signal_ends_an_evaluation(tmp_path, whole, number, every):
    def stopped(model):
        os.kill(os.getpid(), number)
        time.sleep(60)
        raise AssertionError("it went on")

    with pytest.raises(Stopped, match="after step 3; a checkpoint was written"):
        toy_train(tmp_path, ToyModel(dropout=0.2), **KEYS | dict(evaluate=stopped, save_every=every))
    toy_train(tmp_path, ToyModel(dropout=0.2), **KEYS)
    same(whole, tmp_path)


# --- signals ----------------------------------------------------------------------------------------------------------


def test_E8_a_stop_between_log_lines_changes_none(tmp_path, whole):
    for step in (1, 4, 6, 10, 11):
        with pytest.raises(Stopped):
            toy_train(tmp_path, ToyModel(dropout=0.2), before_step=interrupt_at(step, signal.SIGUSR1), **KEYS)
    toy_train(tmp_path, ToyModel(dropout=0.2), **KEYS)
    same(whole, tmp_path)


def test_E8_a_second_ctrl_c_ends_at_once_and_leaves_what_was_saved(tmp_path, whole):
    def twice(model, step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)  # no more patience is asked for by this
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped) as stopped:
        toy_train(tmp_path, ToyModel(dropout=0.2), before_step=twice, **KEYS)
    assert stopped.value.status == 130
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step_00000003", "step_00000006"]
    toy_train(tmp_path, ToyModel(dropout=0.2), **KEYS)
    same(whole, tmp_path)


def test_E8_a_stop_while_the_model_is_written_ends_behind_it(tmp_path, whole, monkeypatch):
    save = toy_training.save_model

    def interrupted(model, path):
        os.kill(os.getpid(), signal.SIGHUP)
        save(model, path)

    monkeypatch.setattr(toy_training, "save_model", interrupted)
    with pytest.raises(Stopped) as stopped:
        toy_train(tmp_path, ToyModel(dropout=0.2), **KEYS)
    assert stopped.value.status == 143
    same(whole, tmp_path)


def test_E8_a_closed_terminal_stops_no_run_under_nohup(tmp_path):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        _, result = toy_train(tmp_path, before_step=interrupt_at(3, signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert result.steps == 12


# --- kills and faults at any moment -----------------------------------------------------------------------------------


@pytest.fixture
def forks() -> None:
    skip_where_forks_cannot_train()


def train_in_child(folder: Path, **changes) -> int:
    """Fork a process that trains like `whole`; its end is that of a process, and nobody tidies up after a kill."""
    if child := os.fork():
        return child
    own_progress_bars()
    status = 1
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with signals_handled(stop_at_once):
            toy_train(folder, ToyModel(dropout=0.2), **KEYS | changes)
        status = 0
    except Stopped as stopped:
        status = stopped.status
    except OSError:
        status = 2
    finally:
        os._exit(status)


def end_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(child: int, seconds: float) -> bool:
    """Whether a process had to be killed after so long: it did not end well before, which is not waited for in vain."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)  # also of one that has ended, whose number is its own until it is waited for
    end = end_of(child)
    assert end in (0, -signal.SIGKILL)
    return end != 0


def slowly(model, step):
    time.sleep(0.01)


def test_kills_at_random_moments_lose_only_what_was_not_saved(tmp_path, whole, forks):
    rng, kills, tries = random.Random(1), 0, 0
    while kills < times(10, 200):
        folder = tmp_path / str(tries)
        tries += 1
        saved, most = -1, 0.5  # seconds
        while True:
            child = train_in_child(folder, before_step=slowly)
            if not killed_after(child, rng.uniform(0.0, most)):
                break
            kills += 1
            newest, _ = newest_checkpoint(folder / "checkpoints")
            step = int(newest.name.removeprefix("step_")) if newest else 0
            assert step >= saved
            most *= 1.2 if step == saved else 1.0  # a busy machine may not even have started by then
            saved = step
        same(whole, folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_E8_signals_at_random_moments_leave_a_checkpoint_of_this_step(tmp_path, whole, number, forks):
    rng = random.Random(number)
    for _ in range(times(3, 25)):
        folder = tmp_path / str(rng.random())
        child = train_in_child(folder, before_step=slowly)
        time.sleep(rng.uniform(0.05, 0.5))
        os.kill(child, number)
        status = end_of(child)
        logged = max((record["step"] for record in log_records(folder / "log.jsonl")), default=0)
        assert status in ((130 if number == signal.SIGINT else 143), 0)
        newest, faults = newest_checkpoint(folder / "checkpoints")
        assert faults == []
        assert logged <= (int(newest.name.removeprefix("step_")) if newest else 0)
        toy_train(folder, ToyModel(dropout=0.2), **KEYS)
        same(whole, folder)


SAVING = {"save_file": checkpoint, "save_model": toy_training}


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A run that was stopped after step 7."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    with pytest.raises(Stopped):
        toy_train(folder, ToyModel(dropout=0.2), before_step=interrupt_at(6), **KEYS)
    return folder


@pytest.mark.parametrize("error", ERRORS)
def test_a_fault_at_any_write_loses_no_older_checkpoint(tmp_path, whole, begun, error, forks):
    """After each write, fsync, rename, unlink ... of a run's second half: the end of the process, or that it fails."""
    shutil.copytree(begun, tmp_path / "all")
    with failing(0, None, SAVING) as done:
        toy_train(tmp_path / "all", ToyModel(dropout=0.2), **KEYS)
    same(whole, tmp_path / "all")
    places = list(range(1, len(done) + 1))
    assert {"fsync", "rename", "rmtree", "save_file", "save_model", "mkdir"} <= set(done)
    for at in sorted(random.Random(error).sample(places, min(times(5, 10**6), len(places)))):
        tried()
        folder = tmp_path / str(at)
        shutil.copytree(begun, folder)
        with failing(at, error, SAVING):
            child = train_in_child(folder)
        end = end_of(child)  # 0: what failed was the removal of something that does no harm
        assert end == (ENDED if error is None else 2) or (end == 0 and done[at - 1] == "unlink"), (at, done[at - 1])
        newest, faults = newest_checkpoint(folder / "checkpoints")
        assert newest is not None, (at, done[at - 1])
        assert faults == []
        toy_train(folder, ToyModel(dropout=0.2), **KEYS)
        same(whole, folder)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b"\xff\xfe{"),
        ("manifest.json", b"{}"),
        ("manifest.json", b'{"state.json": {"bytes": "x", "sha256": 1}}'),
        ("state.json", b"\xff"),
        ("optimizer.safetensors", b""),
    ],
)
def test_E11_a_damaged_newest_checkpoint_is_told_and_the_next_older_is_taken(
    tmp_path, begun, whole, capsys, file, content
):
    shutil.copytree(begun, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step_00000007" / file).write_bytes(content)
    toy_train(tmp_path / "run", ToyModel(dropout=0.2), **KEYS)
    told = capsys.readouterr().err
    assert "Passed over a checkpoint: " in told
    assert "step_00000007" in told
    assert "from step 6" in told
    same(whole, tmp_path / "run")


def test_E11_a_bad_byte_in_the_log_costs_its_line_only(tmp_path, begun):
    shutil.copytree(begun, tmp_path / "run")
    path = tmp_path / "run" / "log.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"\xff\xfe\n" + b"[" * 100_000 + b"\n" + b"".join(rest) + b'{"step": 7, "lo')
    toy_train(tmp_path / "run", ToyModel(dropout=0.2), **KEYS)
    assert [record["step"] for record in log_records(path)] == [1, 3, 4, 6, 8, 9, 12, 12]


# --- whatever else a run does -----------------------------------------------------------------------------------------

GRID = [
    dict(micro_batch_size=size, dropout=dropout, ema_decay=ema, dtype=dtype, batch_size=batch)
    for size in (None, 2)
    for dropout in (0.0, 0.2)
    for ema in (0.0, 0.9)
    for dtype in ("fp32", "bf16")
    for batch in (8, 25)  # 25: the stop lies in an epoch, the end in a later one
]


def narrow_at_first(model, step):
    """A curriculum: the second block joins in later."""
    model.blocks[1].requires_grad_(step >= 4)


@pytest.mark.parametrize("number", random.Random(2).sample(range(len(GRID)), times(4, len(GRID))))
def test_a_stop_changes_nothing_of_a_run(tmp_path, number):
    tried()
    keys = dict(GRID[number], max_steps=10, log_every=3, save_every=4)
    dropout = keys.pop("dropout")
    for name, stops in (("whole", []), ("cut", [2, 5])):
        for stop in stops:

            def before_step(model, step, stop=stop):
                narrow_at_first(model, step)
                interrupt_at(stop, signal.SIGTERM)(model, step)

            with pytest.raises(Stopped):
                toy_train(tmp_path / name, ToyModel(dropout), before_step=before_step, **keys)
        toy_train(tmp_path / name, ToyModel(dropout), before_step=narrow_at_first, **keys)
    same(tmp_path / "whole", tmp_path / "cut")
