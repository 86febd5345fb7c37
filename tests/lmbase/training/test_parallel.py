"""One model over several processes is the model of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_training
from safetensors.torch import load_file
from toy_training import (
    ToyModel,
    checkpoints,
    largest_difference,
    log,
    losses,
    toy_config,
    toy_train,
    weight_size,
    weights,
)

from lmbase.training.parallel import gradients_shared, parallelise, shards_gathered


def test_alone_a_model_is_called_as_it_is():
    model = ToyModel()
    parallel = parallelise(model, toy_config(strategy="fsdp"), 1, torch.device("cpu"))
    assert parallel is model
    with gradients_shared(parallel, False), shards_gathered(parallel):
        assert weights(model)["embed.weight"].shape == (11, 8)


def test_gradient_checkpointing_is_refused_where_it_does_nothing(tmp_path):
    with pytest.raises(ValueError, match="ToyModel cannot recompute"):
        toy_train(tmp_path, gradient_checkpointing=True)


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path):
    """DDP and FSDP give what one process gives; a run that two processes began, one can end; all stop together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = str(Path(toy_training.__file__))
    done = subprocess.run(
        [*command, script, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    toy_train(tmp_path / "one", ema_decay=0.9, evaluate=weight_size)
    assert checkpoints(tmp_path / "stopped") == ["step_00000007"]
    toy_train(tmp_path / "stopped", ema_decay=0.9, evaluate=weight_size)
    for run in ("ddp", "fsdp", "stopped"):
        for part in ("model/model", "checkpoints/step_00000012/optimizer", "checkpoints/step_00000012/model"):
            expected = load_file(tmp_path / "one" / f"{part}.safetensors")
            assert largest_difference(expected, load_file(tmp_path / run / f"{part}.safetensors")) < 1e-5, (run, part)
        assert log(tmp_path / run)[-1]["eval"] == pytest.approx(log(tmp_path / "one")[-1]["eval"], rel=1e-5)
        assert losses(tmp_path / run)[12] == pytest.approx(losses(tmp_path / "one")[12], rel=1e-4)
    for name, keys in (("uneven", dict(batch_size=7)), ("fewer", dict(batch_size=1, max_steps=4))):
        toy_train(tmp_path / f"{name}_one", **keys)
        expected = load_file(tmp_path / f"{name}_one" / "model" / "model.safetensors")
        for strategy in ("ddp", "fsdp"):
            found = load_file(tmp_path / f"{name}_{strategy}" / "model" / "model.safetensors")
            assert largest_difference(expected, found) < 1e-5, (name, strategy)
    for rank in (0, 1):
        assert (tmp_path / f"interrupted_{rank}").exists()
        assert "samples" in (tmp_path / f"poisoned_{rank}").read_text()
        assert "in use by process" in (tmp_path / f"refused_{rank}").read_text()
