"""A step whose numbers are not finite is told with its samples and the first bad module."""

from dataclasses import dataclass

import pytest
import torch
import toy_training
from toy_training import ToyModel, largest_difference, make_batch, toy_train, weights

from lmbase.training.batches import BatchOrder
from lmbase.training.not_finite import what_to_try
from lmbase.training.training_config import TrainingConfig


class Fragile(ToyModel):
    """Its second block fails on the samples 17 and 42."""

    bad_samples = {17, 42}

    def batch(self, items):
        return make_batch(items) | {"bad": torch.tensor([int(item) in self.bad_samples for item in items])}

    def loss_counts(self, ids, bad):
        return super().loss_counts(ids)

    def forward(self, ids, bad):
        hook = self.blocks[1].norm.register_forward_pre_hook(
            lambda module, inputs: inputs[0].masked_fill(bad[:, None, None], torch.inf)
        )
        output = super().forward(ids)
        hook.remove()
        return output


def test_the_message_names_samples_and_the_first_bad_module(tmp_path):
    model = Fragile()
    order = BatchOrder(toy_training.NUM_ITEMS, 8, 0)
    step, found = next((k, found) for k in range(12) if (found := model.bad_samples & set(order.items(k).tolist())))
    named = ", ".join(map(str, sorted(found)))
    for size in (None, 3):
        message = rf"Step {step + 1} is not finite .* first in the output of blocks\.1\.norm; samples {named}\. "
        with pytest.raises(FloatingPointError, match=message):
            toy_train(tmp_path / str(size), model, make_batch=model.batch, micro_batch_size=size)


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    model = ToyModel()
    model.embed.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(model)
    with pytest.raises(FloatingPointError, match=r"gradient norm (inf|nan)\): first in the gradient of embed\.weight"):
        toy_train(tmp_path, model)
    assert largest_difference(before, weights(model)) == 0


def test_a_last_step_that_spoils_the_weights_writes_no_model(tmp_path):
    """The loss of a step is that of the weights before it, so that no loss tells what the last one did."""
    with pytest.raises(FloatingPointError, match=r"After step 1 .* is not finite.*There is no earlier checkpoint"):
        toy_train(tmp_path / "weights", max_steps=1, warmup_steps=0, learning_rate=1e38, weight_decay=1e30)
    assert not list((tmp_path / "weights" / "checkpoints").glob("step*"))

    def evaluate(model):
        return {"loss": float(model(**make_batch(toy_training.np.arange(3))).losses["token"])}

    arguments = dict(max_steps=1, warmup_steps=0, learning_rate=1e30, evaluate=evaluate)
    for _ in range(2):  # the same command again says the same
        with pytest.raises(FloatingPointError, match=r"After step 1 its evaluation \(loss nan\) is not finite"):
            toy_train(tmp_path / "evaluation", **arguments)
    for name in ("weights", "evaluation"):
        assert not (tmp_path / name / "model").exists()
    assert "NaN" not in (tmp_path / "evaluation" / "log.jsonl").read_text()


def test_a_spoilt_step_does_not_replace_the_checkpoint_before_it(tmp_path):
    def fill(weight):
        weight.data.fill_(torch.inf)

    def spoil(model, step):
        if step == 3:
            model.embed.weight.register_post_accumulate_grad_hook(fill)

    with pytest.raises(FloatingPointError, match=r"embed\.weight \(model\) is not finite.*step_00000003, is kept"):
        toy_train(tmp_path, save_every=1, keep_checkpoints=1, before_step=spoil)
    assert toy_training.checkpoints(tmp_path) == ["step_00000003"]


def test_a_rate_that_was_raised_is_named_too(tmp_path):
    @dataclass
    class WithRates(TrainingConfig):
        table_rate: float = 1.0
        joint_rate: float = 30.0

    config = WithRates(output_dir=str(tmp_path))
    said = what_to_try(tmp_path, 3, config)
    assert f"learning_rate (now {config.learning_rate:g}) or joint_rate (now 30 times that)" in said
    assert "table_rate" not in said
