"""A run's folder is continued with the same configuration and the same data only."""

import errno
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import yaml
from toy_training import toy_config, toy_train

from lmbase.config import option
from lmbase.training.run_folder import begins_anew
from lmbase.training.training_config import TrainingConfig


@dataclass
class TextConfig(TrainingConfig):
    data: str = option("", "where the text is")


def test_another_configuration_in_the_same_folder_is_refused(tmp_path):
    toy_train(tmp_path, max_steps=2)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.01 -> 0\.02") as error:
        toy_train(tmp_path, max_steps=2, learning_rate=0.02, log_every=1)
    assert "log_every" not in str(error.value)
    toy_train(tmp_path, max_steps=2, log_every=1, micro_batch_size=1)
    with pytest.raises(ValueError, match="60 items, the data now has 59"):
        toy_train(tmp_path, max_steps=2, num_items=59)


def test_a_run_is_not_continued_on_other_text(tmp_path):
    toy_train(tmp_path / "known", data_hash="0a" * 32)
    with pytest.raises(ValueError, match=r"0a0a0a0a, now 0b0b0b0b.*another output_dir"):
        toy_train(tmp_path / "known", data_hash="0b" * 32)
    toy_train(tmp_path / "known", data_hash="0a" * 32)
    toy_train(tmp_path / "unknown")
    toy_train(tmp_path / "unknown", data_hash="0a" * 32)


def test_a_run_that_never_began_claims_no_folder(tmp_path):
    def broken(items):
        raise ValueError("no such shard")

    with pytest.raises(ValueError, match="no such shard"):
        toy_train(tmp_path, make_batch=broken)
    _, result = toy_train(tmp_path, learning_rate=0.02)
    assert result.steps == 12


# --- two runs in one folder ------------------------------------------------------------------------------------------


def test_E7_a_second_run_in_a_folder_is_refused_with_process_and_host(tmp_path):
    def second(model, step):
        for resume in ("auto", "restart"):
            with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on {socket.gethostname()}"):
                toy_train(tmp_path, resume=resume)

    _, result = toy_train(tmp_path, max_steps=3, save_every=1, before_step=second)
    assert result.steps == 3
    assert not (tmp_path / ".running").exists()


def test_E7_the_lock_ends_with_its_process(tmp_path):
    code = "import sys, time, pathlib, lmbase.files as f\n"
    code += "with f.alone_in(pathlib.Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    with pytest.raises(ValueError, match=f"process {child.pid} "):
        toy_train(tmp_path, max_steps=1)
    child.kill()
    child.wait()
    toy_train(tmp_path, max_steps=1)


# --- what was there before --------------------------------------------------------------------------------------------


def break_at(step):
    def before_step(model, current):
        if current == step:
            raise ValueError("a bad first batch")

    return before_step


def test_B9_restart_keeps_the_earlier_run_until_the_new_one_has_a_checkpoint(tmp_path, capsys):
    toy_train(tmp_path, max_steps=2)
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    for _ in range(2):  # the second time there is nothing more to lose
        with pytest.raises(ValueError, match="bad first batch"):
            toy_train(tmp_path, max_steps=4, learning_rate=0.02, resume="restart", before_step=break_at(0))
        aside = tmp_path / ".before_restart"
        assert f"kept in {aside}" in capsys.readouterr().err
        assert (aside / "model" / "model.safetensors").read_bytes() == weights
        assert {path.name for path in aside.iterdir()} >= {"checkpoints", "model", "log.jsonl", "config.yaml"}
        assert not (tmp_path / "model").exists()
    with pytest.raises(ValueError, match="bad first batch"):
        toy_train(tmp_path, max_steps=4, learning_rate=0.02, save_every=2, before_step=break_at(2))
    assert not aside.exists()


def test_E12_a_finished_run_is_whole_whatever_stopped_its_command(tmp_path):
    toy_train(tmp_path, max_steps=2)
    before = (tmp_path / "model").stat().st_ino
    toy_train(tmp_path, max_steps=2)
    assert (tmp_path / "model").stat().st_ino == before  # not written again: nothing can be lost
    (tmp_path / "model").rename(tmp_path / ".model.0a1b2c3d.replaced")  # killed between two renames
    (tmp_path / ".model.4e5f6a7b.partial").mkdir()
    (tmp_path / "checkpoints" / ".step_00000009.8c9d0e1f.partial").mkdir()
    (tmp_path / ".config.yaml.123.partial").touch()
    toy_train(tmp_path, max_steps=2)
    assert (tmp_path / "model").stat().st_ino == before
    assert [path.name for path in tmp_path.rglob(".*") if path.suffix in (".partial", ".replaced")] == []


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints/step_00000002"])
def test_E12_a_run_without_its_checkpoints_is_not_trained_anew_unasked(tmp_path, gone):
    toy_train(tmp_path, max_steps=2)
    shutil.rmtree(tmp_path / gone)
    with pytest.raises(ValueError, match=r"2 steps whose checkpoints are gone.*--resume restart"):
        toy_train(tmp_path, max_steps=2)
    assert (tmp_path / "model" / "model.safetensors").exists()
    toy_train(tmp_path, max_steps=2, resume="restart")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_and_says_so(tmp_path, capsys):
    with pytest.raises(ValueError, match="bad first batch"):
        toy_train(tmp_path, before_step=break_at(9))
    toy_train(tmp_path)
    assert "a log of 8 steps and no checkpoint yet" in capsys.readouterr().err


def test_E11_data_that_were_moved_are_the_same_data(tmp_path):
    common = dict(max_steps=2, data_hash="0a" * 32, make_config=TextConfig)
    toy_train(tmp_path, data="a", **common)
    toy_train(tmp_path, data="b", **common)
    with pytest.raises(ValueError, match="data: 'b' -> 'c'"):
        toy_train(tmp_path, data="c", **common | dict(data_hash="0b" * 32))
    with pytest.raises(ValueError, match="learning_rate"):
        toy_train(tmp_path, data="c", learning_rate=1.0, **common)


def test_free_space_is_looked_at_before_a_run_and_before_a_save(tmp_path, monkeypatch):
    free = 10_000_000

    def disk_usage(path):
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    free = 1000
    with pytest.raises(OSError, match=r"what this run writes \(1 checkpoints and a model\) takes .* GB left") as caught:
        toy_train(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    free = 10_000_000

    def fill_up(model, step):
        nonlocal free
        free = 1000 if step == 3 else free

    with pytest.raises(OSError, match=r"the checkpoint of step 4 takes .* GB left\. Free some"):
        toy_train(tmp_path, save_every=2, before_step=fill_up)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]


def test_the_configuration_of_a_run_that_was_begun_anew_continues_it(tmp_path):
    toy_train(tmp_path, max_steps=2, resume="restart")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["resume"] == "auto"


def test_a_run_of_an_earlier_version_goes_on_with_its_data_and_in_their_place_alone(tmp_path):
    earlier, now = "0a" * 32, dict(data_hash="0b" * 32, earlier_hash="0a" * 32)
    common = dict(max_steps=2, make_config=TextConfig)
    toy_train(tmp_path, data="a", data_hash=earlier, **common)
    toy_train(tmp_path, data="a", **now, **common)
    with pytest.raises(ValueError, match="data: 'a' -> 'b'"):  # whether it was cut alike is not known
        toy_train(tmp_path, data="b", **now, **common)
    with pytest.raises(ValueError, match="trained on other data"):
        toy_train(tmp_path, data="a", **common, **now | dict(earlier_hash="0c" * 32))


@pytest.mark.parametrize("left", ["checkpoints/step_00000002", "model", None])
def test_a_training_begins_anew_where_nothing_goes_on_and_where_a_restart_is_asked_for(tmp_path, left):
    toy_train(tmp_path, max_steps=2)
    for path in (tmp_path / "checkpoints/step_00000002", tmp_path / "model"):
        if path != tmp_path / str(left):
            shutil.rmtree(path)
    assert begins_anew(tmp_path, toy_config()) == (left is None)
    assert begins_anew(tmp_path, toy_config(resume="restart"))
