"""TensorBoard and wandb have one curve for a run, however often it goes on; no network stops no training."""

import os
import socket
from pathlib import Path

import pytest
from soak import only_in_soak
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_training import interrupt_at, toy_train

from lmbase.training import trackers


class Tracker:
    """In place of accelerate's."""

    def __init__(self, fails: bool = False) -> None:
        self.is_main_process, self.fails = True, fails
        self.begun: list[tuple[str | None, dict]] = []

    def init_trackers(self, project, config, init_kwargs):
        self.begun.append((os.environ.get("WANDB_MODE"), init_kwargs.get("wandb", {})))
        if self.fails and os.environ.get("WANDB_MODE") != "offline":
            raise RuntimeError("api key is not valid")


@pytest.fixture
def with_key(monkeypatch, tmp_path):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    return tmp_path


def unreachable(address, timeout):
    raise OSError(101, "Network is unreachable")


def reachable(address, timeout):
    return socket.socket()


def test_B8_with_a_key_and_no_network_wandb_keeps_the_run_here(with_key, monkeypatch, capsys):
    monkeypatch.setattr(socket, "create_connection", unreachable)
    tracker = Tracker()
    trackers.start_tracker(tracker, "wandb", {}, with_key, 0)
    assert tracker.begun[0][0] == "offline"
    assert (
        "api.wandb.ai cannot be reached ([Errno 101] Network is unreachable); the run is kept"
        in capsys.readouterr().err
    )


def test_B8_a_server_that_refuses_stops_no_training(with_key, monkeypatch, capsys):
    monkeypatch.setattr(socket, "create_connection", reachable)
    tracker = Tracker(fails=True)
    trackers.start_tracker(tracker, "wandb", {}, with_key, 0)
    assert [mode for mode, _ in tracker.begun] == [None, "offline"]
    assert "api key is not valid; the run is kept" in capsys.readouterr().err


def test_B8_a_resumed_run_is_the_same_run_at_wandb(with_key, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", reachable)
    tracker = Tracker()
    for step in (0, 6):
        trackers.start_tracker(tracker, "wandb", {}, with_key, step)
    (first, second) = (settings for _, settings in tracker.begun)
    assert first["id"] == second["id"]
    assert first["resume"] == second["resume"] == "allow"


def points(folder: Path) -> list[int]:
    events = EventAccumulator(str(folder / "sllm"))
    events.Reload()
    return [event.step for event in events.Scalars("loss")]


def test_B8_tensorboard_has_no_step_twice_after_a_resume(tmp_path):
    keys: dict = dict(tracker="tensorboard", log_every=1, save_every=6)

    def broken(model, step):
        if step == 8:
            raise OSError("the power went")

    def configurations():
        return [path for path in (tmp_path / "sllm").iterdir() if path.is_dir()]

    with pytest.raises(OSError, match="the power went"):
        toy_train(tmp_path, before_step=broken, **keys)
    before = configurations()
    with pytest.raises(KeyboardInterrupt):
        toy_train(tmp_path, before_step=interrupt_at(9), **keys)
    toy_train(tmp_path, **keys)
    assert points(tmp_path) == list(range(1, 13))
    assert configurations() == before


@only_in_soak
def test_B8_wandb_itself_without_a_network(with_key, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_BASE_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("WANDB_SILENT", "true")
    keys: dict = dict(tracker="wandb", log_every=1, max_steps=3)
    toy_train(with_key / "run", **keys)
    assert "127.0.0.1 cannot be reached" in capsys.readouterr().err
    assert list((with_key / "run" / "wandb").glob("offline-run-*"))
