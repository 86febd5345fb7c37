"""The loop's promises: one division per step, exact resume, clean stops, several processes equal one."""

import errno
import signal
import sys

import numpy as np
import pytest
import torch
import toy_training
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from toy_training import (
    LENGTHS,
    ToyModel,
    checkpoints,
    interrupt_at,
    largest_difference,
    log,
    losses,
    make_batch,
    toy_config,
    toy_train,
    weights,
)

from lmbase.files import verify_folder
from lmbase.processes import Stopped, resume_command
from lmbase.training import checkpoint as checkpoints_module
from lmbase.training.batches import BatchOrder
from lmbase.training.optimizer import adamw, learning_rate

# --- the objective ---------------------------------------------------------------------------------------------------


def test_one_step_is_adamw_on_the_mean_over_all_targets(tmp_path):
    model, result = toy_train(tmp_path, max_steps=1, grad_clip=0.0)
    by_hand, config = ToyModel(), toy_config(max_steps=1)
    batch = make_batch(BatchOrder(toy_training.NUM_ITEMS, 8, config.seed).items(0))
    optimizer = adamw(list(by_hand.named_parameters()), config, torch.device("cpu"))
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = learning_rate(0, config)
    summed, counts = by_hand(**batch).losses, by_hand.loss_counts(**batch)
    (summed["token"] / counts["token"] + 0.5 * summed["size"] / counts["size"]).backward()
    optimizer.step()
    assert largest_difference(weights(model), weights(by_hand)) < 1e-6
    assert result.losses["token"] == pytest.approx(summed["token"].item() / counts["token"], rel=1e-5)
    assert result.tokens == int((batch["ids"] > 0).sum())


def test_eight_at_once_equal_accumulated_micro_batches(tmp_path):
    whole, _ = toy_train(tmp_path / "8x1")
    for size in (1, 3, 4):  # 3 leaves a smaller last micro-batch
        parts, _ = toy_train(tmp_path / str(size), micro_batch_size=size)
        assert largest_difference(weights(whole), weights(parts)) < 1e-5
        for step, expected in losses(tmp_path / "8x1").items():
            assert losses(tmp_path / str(size))[step] == pytest.approx(expected, rel=1e-4)


def test_a_mean_of_micro_batch_means_would_be_noticed(tmp_path):
    """The guard above has teeth: items differ in length, so it matters what each sum is divided by."""
    items = BatchOrder(toy_training.NUM_ITEMS, 8, 0).items(0)
    model = ToyModel()
    parts = [make_batch(part) for part in np.split(items[np.argsort(LENGTHS[items])], 4)]
    means = [(model(**part).losses["token"] / model.loss_counts(**part)["token"]).item() for part in parts]
    whole = make_batch(items)
    exact = (model(**whole).losses["token"] / model.loss_counts(**whole)["token"]).item()
    assert abs(np.mean(means) - exact) > 1e-3


def test_training_learns(tmp_path):
    toy_train(tmp_path, max_steps=60)
    lines = [line["losses"]["token"] for line in log(tmp_path)]
    assert lines[-1] < 0.8 * lines[0]


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights(tmp_path):
    model, _ = toy_train(tmp_path / "bf16", dtype="bf16")
    other, _ = toy_train(tmp_path / "fp32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 0 < largest_difference(weights(model), weights(other)) < 0.05


def test_frozen_parameters_stay_and_a_frozen_model_is_refused(tmp_path):
    model = ToyModel()
    before = model.blocks.requires_grad_(False)[0].linear.weight.clone()
    toy_train(tmp_path / "partly", model)
    assert torch.equal(model.blocks[0].linear.weight, before)
    with pytest.raises(ValueError, match="frozen"):
        toy_train(tmp_path / "all", ToyModel().requires_grad_(False))


def test_the_average_follows_the_weights_and_is_what_is_evaluated_and_saved(tmp_path):
    seen = {}

    def evaluate(model):
        seen.update(weights(model))
        return {}

    model, _ = toy_train(tmp_path / "ema", ema_decay=0.9, evaluate=evaluate)
    plain, _ = toy_train(tmp_path / "plain")
    saved = load_file(tmp_path / "ema" / "model" / "model.safetensors")
    assert largest_difference(seen, weights(model)) == 0
    assert torch.equal(saved["embed.weight"], model.embed.weight)
    raw = load_file(tmp_path / "ema" / "checkpoints" / "step_00000012" / "model.safetensors")
    assert torch.equal(raw["embed.weight"], plain.embed.weight)
    assert not torch.equal(saved["embed.weight"], plain.embed.weight)


# --- stopping and continuing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_E8_an_interrupted_run_continues_bit_for_bit(tmp_path, monkeypatch, number):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/sllm", "train-opt", "--data", "my text.txt"])
    keys = dict(ema_decay=0.9, max_steps=12, dtype="fp32")
    whole, whole_result = toy_train(tmp_path / "whole", ToyModel(dropout=0.2), **keys)
    with pytest.raises(Stopped, match="after step 6; a checkpoint was written") as stopped:
        toy_train(tmp_path / "cut", ToyModel(dropout=0.2), before_step=interrupt_at(5, number), **keys)
    assert stopped.value.status == (130 if number == signal.SIGINT else 143)
    assert resume_command() == "sllm train-opt --data 'my text.txt'"
    assert checkpoints(tmp_path / "cut") == ["step_00000006"]
    assert not (tmp_path / "cut" / "model").exists()
    resumed, result = toy_train(tmp_path / "cut", ToyModel(dropout=0.2), **keys)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")  # a stop has no line, and its steps no less weight
    assert largest_difference(weights(whole), weights(resumed)) == 0
    assert (result.steps, result.tokens) == (whole_result.steps, whole_result.tokens)
    for part in ("model", "optimizer", "ema"):
        name = f"checkpoints/step_00000012/{part}.safetensors"
        assert largest_difference(load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)) == 0


def test_dropout_in_the_toy_model_matters(tmp_path):
    """Otherwise the test above would not show that the random state is restored."""
    kept, _ = toy_train(tmp_path / "kept", ToyModel(dropout=0.2), seed=0)
    other, _ = toy_train(tmp_path / "other", ToyModel(dropout=0.0), seed=0)
    assert largest_difference(weights(kept), weights(other)) > 0


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, capsys):
    whole, _ = toy_train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        toy_train(tmp_path / "cut", save_every=4, before_step=interrupt_at(8))
    assert checkpoints(tmp_path / "cut") == ["step_00000008", "step_00000009"]
    newest = tmp_path / "cut" / "checkpoints" / "step_00000009"
    data = (newest / "optimizer.safetensors").read_bytes()
    (newest / "optimizer.safetensors").write_bytes(data[: len(data) // 2])
    (tmp_path / "cut" / "checkpoints" / ".step_00000010.x.partial").mkdir()
    resumed, _ = toy_train(tmp_path / "cut", save_every=4)
    errors = capsys.readouterr().err
    assert "optimizer.safetensors has" in errors
    assert "from step 8" in errors
    assert largest_difference(weights(whole), weights(resumed)) == 0
    assert [line["step"] for line in log(tmp_path / "cut")] == [1, 4, 8, 12]


def test_with_no_whole_checkpoint_nothing_is_started_anew_unasked(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        toy_train(tmp_path, before_step=interrupt_at(3))
    (tmp_path / "checkpoints" / "step_00000004" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing(.|\n)*--resume restart"):
        toy_train(tmp_path)
    _, result = toy_train(tmp_path, resume="restart")
    assert result.steps == 12
    assert [line["step"] for line in log(tmp_path)] == [1, 4, 8, 12]


def test_the_newest_checkpoints_are_kept(tmp_path):
    toy_train(tmp_path, save_every=2, keep_checkpoints=3)
    assert checkpoints(tmp_path) == ["step_00000008", "step_00000010", "step_00000012"]


def test_checkpoints_hold_no_pickle(tmp_path):
    toy_train(tmp_path, ema_decay=0.9)
    names = {path.name for path in (tmp_path / "checkpoints" / "step_00000012").iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "manifest.json"}


def test_a_finished_run_is_not_trained_again(tmp_path):
    model, first = toy_train(tmp_path)

    def never(items):
        raise AssertionError("a finished run asked for a batch")

    again, second = toy_train(tmp_path, make_batch=never)
    assert second == first
    assert largest_difference(weights(model), weights(again)) == 0


@pytest.mark.parametrize("message", ["No space left on device", "Error: No space left on device (os error 28)"])
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_where_it_stopped(tmp_path, monkeypatch, message):
    written = []

    def save(tensors, path):
        written.append(path.parent.name)
        if len(set(written)) == 2 and path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise SafetensorError(message) if "os error" in message else OSError(errno.ENOSPC, message)
        save_file(tensors, path)

    whole, _ = toy_train(tmp_path / "whole")
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "save_file", save)
        with pytest.raises(OSError, match=r"No space left .* kept\. Free some and run the same command") as caught:
            toy_train(folder, save_every=4)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(folder))
    assert checkpoints(folder) == ["step_00000004"]  # and nothing hidden beside it
    verify_folder(folder / "checkpoints" / "step_00000004")
    resumed, result = toy_train(folder, save_every=4)
    assert result.steps == 12
    assert largest_difference(weights(whole), weights(resumed)) == 0
    assert [line["step"] for line in log(folder)] == [1, 4, 8, 12]


# --- bad steps, bad input --------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path):
    def poison(model, step):
        model.poisoned = step == 6

    model = ToyModel()
    with pytest.raises(FloatingPointError, match=r"Step 7 is not finite \(size .*, token nan") as error:
        toy_train(tmp_path, model, save_every=6, before_step=poison)
    assert "learning_rate (now 0.01)" in str(error.value)
    assert "first in the output of ToyModel; samples " in str(error.value)
    assert "step_00000006, is kept" in str(error.value)
    saved = load_file(tmp_path / "checkpoints" / "step_00000006" / "model.safetensors")
    assert largest_difference(saved, weights(model)) == 0


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="device = 'quantum'"):
        toy_train(tmp_path, device="quantum")
