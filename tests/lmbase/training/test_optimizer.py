"""AdamW's groups, the learning rate over time, averaged weights."""

from contextlib import suppress

import pytest
import torch
from torch import nn
from toy_training import ToyModel, toy_config

from lmbase.training.optimizer import WeightAverage, adamw, learning_rate


def test_only_matrices_decay():
    groups = adamw(list(ToyModel().named_parameters()), toy_config(), torch.device("cpu")).param_groups
    assert {(group["weight_decay"], parameter.ndim >= 2) for group in groups for parameter in group["params"]} == {
        (0.1, True),
        (0.0, False),
    }


def test_learning_rate_schedules():
    for schedule, middle in (("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)):
        config = toy_config(max_steps=111, warmup_steps=10, learning_rate=1.0, schedule=schedule)
        rates = [learning_rate(step, config) for step in range(111)]
        assert rates[0] == pytest.approx(0.1)
        assert rates[9] == rates[10] == 1.0
        assert rates[60] == pytest.approx(middle)
        assert rates[110] == pytest.approx(1.0 if schedule == "constant" else 0.1)
    assert learning_rate(0, toy_config(max_steps=1, warmup_steps=0, learning_rate=1.0)) == 1.0


def test_the_average_is_an_exponential_one():
    parameter = nn.Parameter(torch.zeros(1))
    average = WeightAverage([parameter], decay=0.5)
    for step, value in enumerate([1.0, 2.0]):
        parameter.data.fill_(value)
        average.update(step)
    first = 0.9 * 1.0  # decay (1 + 0) / (10 + 0)
    expected = first * 2 / 11 + 2.0 * 9 / 11
    with average.swapped_in():
        assert parameter.item() == pytest.approx(expected)
    assert parameter.item() == 2.0


def test_without_anything_to_train_there_is_no_optimizer():
    with pytest.raises(ValueError, match="everything is frozen"):
        adamw([], toy_config(), torch.device("cpu"))
    (group,) = adamw([("bias", nn.Parameter(torch.zeros(3)))], toy_config(), torch.device("cpu")).param_groups
    assert group["weight_decay"] == 0.0


def test_trained_weights_are_back_after_an_error_with_the_average():
    parameter = nn.Parameter(torch.ones(2))
    average = WeightAverage([parameter], decay=0.9)
    parameter.data.fill_(3.0)
    with suppress(KeyError), average.swapped_in():
        assert parameter.tolist() == [1.0, 1.0]
        raise KeyError
    assert parameter.tolist() == [3.0, 3.0]
    average.copy_from_model()
    parameter.data.fill_(7.0)
    average.copy_to_model()
    assert parameter.tolist() == [3.0, 3.0]
