"""Seconds of passes and of updates."""

import time

import torch
from tiny import make_opt

from lmbase.modeling.token_lm import TokenLM
from lmbase.training.pace import pass_seconds, seconds_of, update_seconds


def test_the_first_round_is_left_out():
    waits = iter([0.05, 0.0, 0.0, 0.0])
    assert seconds_of(lambda: time.sleep(next(waits)), most_seconds=0.0) < 0.02


def test_passes_and_updates_take_time_and_leave_no_gradients():
    model = TokenLM(make_opt())
    ids = torch.randint(4, 200, (2, 9))
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), ends=torch.ones(2, dtype=torch.bool))
    assert pass_seconds(model, batch, "fp32", 0.0) > 0
    assert all(p.grad is None for p in model.parameters())
    assert update_seconds(model, 0.0) > 0
