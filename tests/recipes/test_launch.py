"""`sllm --processes N`: signals reach all processes, the death of one ends the others, and nobody shows a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from soak import times, tried

from lmbase.training.checkpoint import newest_checkpoint
from lmbase.training.runlog import log_records

pytestmark = [pytest.mark.distributed, pytest.mark.long]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    for split, size in (("train", 200), ("valid", 10_000)):
        (folder / f"{split}.txt").write_text(
            "The cat sees a dog. Then it finds the old house, and likes it.\n\n" * size
        )
    return folder


def begin(folder: Path, run: str, more: str = "") -> subprocess.Popen[bytes]:
    words = f"--processes 2 train-lm --lm random:tiny --data {folder}/*.txt --tokenizer bytes --output_dir {run} {more}"
    words += " --batch_size 3 --context 64 --max_steps 100000 --save_every 3 --log_every 1 --warmup_steps 5"
    with (folder / "stderr").open("wb") as stderr:
        started = subprocess.Popen(
            [sys.executable, "-m", "sllm_recipes.cli", *words.split()],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    for _ in range(1200):
        if len(log_records(Path(run) / "log.jsonl")) > 3 or started.poll() is not None:
            return started
        time.sleep(0.1)
    raise AssertionError("it did not begin")


def steps(run: Path) -> tuple[int, int]:
    """The last step that was logged, and the one that was saved."""
    newest, faults = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    assert faults == []
    return log_records(run / "log.jsonl")[-1]["step"], int(newest.name.removeprefix("step_"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP][: times(1, 4)])
def test_E8_a_signal_stops_all_processes_without_a_traceback(folder, number):
    tried()
    run = folder / f"stopped_{number}"
    started = begin(folder, str(run))
    began = time.monotonic()
    started.send_signal(number)
    assert started.wait(timeout=30) == (130 if number == signal.SIGINT else 143)
    assert time.monotonic() - began < 30
    logged, saved = steps(run)
    assert saved == logged
    told = (folder / "stderr").read_text()
    assert "Traceback" not in told
    assert told.count("To continue:") == 1
    assert "--processes 2 train-lm" in told.rpartition("To continue:")[2]


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"][: times(1, 2)])
def test_E8_a_signal_ends_an_evaluation_of_several_processes(folder, strategy):
    """One that would take minutes, after step 4."""
    tried()
    run = folder / f"evaluating_{strategy}"
    started = begin(folder, str(run), f"--eval_every 4 --eval_windows 20000 --strategy {strategy}")
    time.sleep(1)
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=30) == 143
    assert steps(run) == (4, 4)
    assert [record for record in log_records(run / "log.jsonl") if "eval" in record] == []
    assert "Traceback" not in (folder / "stderr").read_text()


def test_one_killed_process_ends_the_others(folder):
    tried()
    run = folder / "killed"
    started = begin(folder, str(run))
    workers = psutil.Process(started.pid).children()
    assert len(workers) == 2
    workers[1].kill()
    assert started.wait(timeout=30) == 128 + signal.SIGKILL
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    logged, saved = steps(run)
    assert 0 <= logged - saved <= 3
