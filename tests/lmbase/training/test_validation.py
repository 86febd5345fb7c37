"""Figures of a validation set are sums over counts, of evenly spread items, whatever the batches."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lmbase.training.validation import validation_loss


class Items:
    """Item i has i + 1 tokens and twice as many bytes."""

    def __init__(self, num):
        self.lengths = np.arange(1, num + 1)
        self.num_bytes = 2 * self.lengths
        self.asked: list[int] = []

    def __len__(self):
        return len(self.lengths)

    def batch(self, items):
        self.asked += items.tolist()
        return {"sizes": torch.from_numpy(self.lengths[items])}


class Model(nn.Linear):
    """A token of an item of n tokens costs n nats, its flag 1; half of all tokens are right."""

    def __init__(self, stop=True):
        super().__init__(1, 1)
        self.stop = stop

    def loss_counts(self, sizes):
        return {"token": sizes.sum()} | ({"stop": len(sizes)} if self.stop else {})

    def forward(self, sizes):
        assert not torch.is_grad_enabled()
        losses = {"token": (sizes**2).sum().float(), "stop": torch.tensor(float(len(sizes)))}
        return SimpleNamespace(losses=losses, correct=sizes.sum() / 2)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_long_items_weigh_as_much_as_they_are_long(batch_size):
    found = validation_loss(Model(), Items(4), 99, batch_size)
    token, tokens, num_bytes = 1 + 4 + 9 + 16, 10, 20
    assert found["token"] == pytest.approx(token / tokens)
    assert found["stop"] == 1
    assert found["perplexity"] == pytest.approx(math.exp(token / tokens))
    assert found["token_accuracy"] == 0.5
    assert found["bits_per_byte"] == pytest.approx((token + 4) / math.log(2) / num_bytes), "flags are paid for, too"


def test_a_model_without_flags_pays_for_tokens_alone():
    found = validation_loss(Model(stop=False), Items(4), 99, 2)
    assert "stop" not in found
    assert found["bits_per_byte"] == pytest.approx(30 / math.log(2) / 20)


def test_a_start_beyond_any_perplexity_has_the_other_figures():
    found = validation_loss(Model(), Items(2000), 2000, 500)
    assert found["token"] > 709
    assert "perplexity" not in found
    assert all(map(math.isfinite, found.values()))


def test_some_items_are_spread_from_the_first_to_the_last():
    items = Items(101)
    validation_loss(Model(), items, 5, 2)
    assert sorted(items.asked) == [0, 25, 50, 75, 100]


def test_what_no_item_is_long_enough_for_has_no_figure():
    class Heads(Model):
        def loss_counts(self, sizes):
            return super().loss_counts(sizes) | {"head_2": (sizes - 1).clamp(min=0).sum()}

        def forward(self, sizes):
            output = super().forward(sizes)
            output.losses["head_2"] = torch.zeros(())
            return output

    found = validation_loss(Heads(), Items(1), 99, 2)
    assert "head_2" not in found
    assert found["token"] == 1
    assert validation_loss(Heads(), Items(2), 99, 2)["head_2"] == 0
