"""`prepare`, `evaluate` and `benchmark`, killed, stopped or failed at any moment, end as if they had not been when they
are given again."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from disk_faults import ENDED, ERRORS, failing
from families import MAKERS
from forks import own_progress_bars, skip_where_forks_cannot_train
from soak import SOAK, times, tried
from tiny import make_processor

from lmbase.report.rows import read_metrics
from sllm_data.prepared import PreparedData
from sllm_recipes import cli

CLOCKS = ("seconds", "ratio", "_at")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    texts = [f"Number {i} is here, it says. And {'then ' * (i % 9)}ends! " * 3 for i in range(300)]
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "test.txt").write_text("One, two, three. Four and five! " * 12)
    for name in ("plain", "heads", "sentences"):
        MAKERS[name]("llama").save_pretrained(folder / name)
        make_processor().tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def forks() -> None:
    skip_where_forks_cannot_train()


def in_child(command: str) -> int:
    if child := os.fork():
        return child
    own_progress_bars()
    status = 1
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        cli.main(command.split())
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)


def prepared(folder: Path, out: Path) -> tuple[str, object]:
    words = (
        f"prepare --data {folder}/train.jsonl --tokenizer bytes --rule punctuation --num_workers 1 --output_dir {out}"
    )
    return words, lambda: (PreparedData.load(out).hash, PreparedData.load(out).statistics)


def evaluated(folder: Path, out: Path) -> tuple[str, object]:
    models = " ".join(f"{folder}/{name}" for name in ("plain", "heads", "sentences"))
    words = f"evaluate --model {models} --data {folder}/test.txt --speed false --samples 1 --prompt_tokens 8"
    words += f" --new_tokens 8 --device cpu --output_dir {out}"

    def rows() -> list[dict]:
        found = [row.to_dict() for row in read_metrics(out)["rows"]]
        return [{k: v for k, v in row.items() if not any(clock in k for clock in CLOCKS)} for row in found]

    return words, rows


def benchmarked(folder: Path, out: Path) -> tuple[str, object]:
    words = f"benchmark --subset cache --size tiny llama-tiny qwen3-tiny --data {folder}/train.jsonl {folder}/test.txt"
    words += f" --tokenizer bytes --device cpu --output_dir {out}"
    return words, lambda: [row.to_dict() for row in read_metrics(out)["rows"]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("recipe", [prepared, evaluated, pytest.param(benchmarked, marks=pytest.mark.long)])
def test_a_recipe_that_was_ended_goes_on(folder, tmp_path, recipe, number, forks):
    words, result = recipe(folder, tmp_path / "whole")
    began = time.monotonic()
    cli.main(words.split())
    seconds, whole = time.monotonic() - began, result()
    words, result = recipe(folder, tmp_path / "cut")
    rng = random.Random(number)
    for _ in range(times(2, 50)):
        child = in_child(words)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, number)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -number if number == signal.SIGKILL else 143, -number)  # before it was ready for signals
    cli.main(words.split())
    assert result() == whole
    assert [path.name for path in (tmp_path / "cut").rglob(".*.partial")] == []


@pytest.mark.parametrize("recipe", [prepared, evaluated, benchmarked] if SOAK else [prepared])
def test_a_recipe_that_a_fault_at_any_write_ended_goes_on(folder, tmp_path, recipe, forks):
    """After each write, fsync, rename, unlink ... the end of the process, or each of them fails."""
    cli.main(recipe(folder, tmp_path / "first")[0].split())  # libraries write what they keep for the next time
    words, result = recipe(folder, tmp_path / "whole")
    with failing(0, None) as done:
        cli.main(words.split())
    whole = result()
    assert {"fsync", "replace", "unlink"} <= set(done)
    places = [(at, error) for at in range(1, len(done) + 1) for error in ERRORS]
    for at, error in random.Random(len(done)).sample(places, min(times(4, 10**6), len(places))):
        tried()
        words, result = recipe(folder, tmp_path / f"{at}-{error}")
        with failing(at, error):
            child = in_child(words)
        end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        harmless = end == 0 and done[at - 1] in ("unlink", "rmtree")  # a removal that may be left to the next who comes
        assert end == (ENDED if error is None else 2) or harmless, (at, done[at - 1], error, end)
        cli.main(words.split())
        assert result() == whole, (at, done[at - 1], error)
        assert [path.name for path in (tmp_path / f"{at}-{error}").rglob(".*.partial")] == []
