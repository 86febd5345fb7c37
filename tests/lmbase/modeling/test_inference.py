"""Within inference nothing of training is on, and afterwards everything is as it was."""

import pytest
import torch
from torch import nn

from lmbase.modeling.inference import inference, inference_method


@pytest.fixture
def model():
    """In training, but for one part that is kept out of it, as a frozen one is."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4)), nn.Dropout(0.5))
    model[1].eval()
    return model


def modes(model):
    return [module.training for module in model.modules()]


def test_dropout_and_gradients_are_off_within_and_each_mode_is_back_afterwards(model):
    before, x = modes(model), torch.ones(1, 4)
    with inference(model):
        assert not any(modes(model))
        assert torch.equal(model(x), model(x))
        assert not model(x).requires_grad
    assert modes(model) == before
    assert len(set(before)) == 2
    assert model(x).requires_grad


def test_an_error_leaves_the_modes_as_they_were(model):
    before = modes(model)
    with pytest.raises(KeyError), inference(model):
        raise KeyError
    assert modes(model) == before
    assert torch.is_grad_enabled()


def test_a_method_runs_so_with_its_arguments_and_its_name(model):
    @inference_method
    def twice(model, x, *, plus=0.0):
        """Documented."""
        assert not model.training
        return 2 * model(x) + plus

    assert not twice(model, torch.ones(1, 4), plus=1.0).requires_grad
    assert (twice.__name__, twice.__doc__) == ("twice", "Documented.")
    assert model.training
