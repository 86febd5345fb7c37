"""What a run tells: log.jsonl, trackers, Ctrl-C."""

import errno
import io
import json
import os
import signal

import pytest
from accelerate import Accelerator
from toy_training import checkpoints, interrupt_at, log, toy_train, weight_size

from lmbase.processes import Stopped, tell_stopped
from lmbase.training.runlog import RunLog, StopSignal


def test_the_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    toy_train(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_log_has_losses_rates_and_evaluations(tmp_path):
    toy_train(tmp_path, eval_every=6, evaluate=weight_size)
    lines = log(tmp_path)
    assert [line["step"] for line in lines if "losses" in line] == [1, 4, 8, 12]
    assert [line["step"] for line in lines if "eval" in line] == [6, 12]
    assert {"step", "tokens", "seconds", "lr", "loss", "losses", "grad_norm", "tokens_per_second"} <= lines[0].keys()
    first = lines[0]
    assert first["loss"] == pytest.approx(first["losses"]["token"] + 0.5 * first["losses"]["size"])


class Full(io.StringIO):
    """`2> log` on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_run_goes_on_where_its_lines_find_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", Full())
    _, result = toy_train(tmp_path, eval_every=6, evaluate=weight_size)
    assert result.steps == 12
    assert [line["step"] for line in log(tmp_path) if "eval" in line] == [6, 12]


def test_a_run_is_stopped_as_ever_where_its_lines_find_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", Full())
    with pytest.raises(Stopped) as stopped:
        toy_train(tmp_path, before_step=interrupt_at(5))
    assert checkpoints(tmp_path) == ["step_00000006"]
    assert tell_stopped(stopped.value) == 130


def test_tensorboard_gets_the_log(tmp_path):
    toy_train(tmp_path, tracker="tensorboard", max_steps=2)
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_a_run_that_goes_on_drops_the_lines_behind_its_checkpoint(tmp_path, capsys):
    """Those of steps that are taken again, and the line that was being written when it was cut off."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2}\n{"step": 4, "eval": {}}\n{"step": 6}\nno line\n{"step"')
    with RunLog(tmp_path, Accelerator(cpu=True), 4, 8) as run:
        assert log(tmp_path) == [{"step": 2}, {"step": 4, "eval": {}}]
        run.training({"step": 6, "loss": 2.5, "losses": {"token": 2.5}, "tokens_per_second": 1e3})
        run.evaluation(8, {"perplexity": 12.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4, 6, 8]
    assert "step 8: perplexity 12" in capsys.readouterr().err


def signalled_twice(patient: bool) -> None:
    with StopSignal(patient) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert patient


def test_a_second_signal_ends_one_process_at_once_and_several_not():
    with pytest.raises(KeyboardInterrupt):
        signalled_twice(patient=False)
    with pytest.raises(Stopped, match="SIGINT"):
        signalled_twice(patient=True)


@pytest.mark.parametrize("start", [0, 40])
def test_the_time_left_is_right_from_the_tenth_step_on_however_slow_the_first_ones_were(tmp_path, capsys, start):
    with RunLog(tmp_path, Accelerator(cpu=True), start, start + 100, eval_every=50) as run:
        for step in range(start + 1, start + 101):
            run.advance(step, 60.0 if step <= start + 2 else 0.5 if step % 2 else 1.5)
            true = start + 100 - step
            if step < start + 10:
                assert run.seconds_left(step) is None
            else:
                assert true / 1.5 <= run.seconds_left(step) <= 1.5 * true + 1
            run.training({"step": step, "loss": 2.5, "losses": {"token": 2.5}, "tokens_per_second": 1e3})
        run.evaluation(start + 50, {}, seconds=30.0)
        assert run.seconds_left(start + 60) == pytest.approx(40 + 30, rel=0.05)
    first, *_ = capsys.readouterr().err.splitlines()
    assert f"step {start + 10}/{start + 100}: loss 2.5, 1,000 tokens/s" in first  # before that it would be a guess
    assert "GiB of memory, 1 min 3" in first
    assert "left" in first


def test_few_lines_where_nobody_watches(tmp_path, capsys):
    with RunLog(tmp_path, Accelerator(cpu=True), 0, 1000) as run:
        for step in range(1, 1001):
            run.advance(step, 0.01)
            run.training({"step": step, "loss": 2.5, "losses": {"token": 2.5}, "tokens_per_second": 1e3})
    assert len(capsys.readouterr().err.splitlines()) == 2
