"""Weights in eight bits: products are those of the rounded weights, for any number of rows."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmbase.modeling.int8 import FEW_ROWS, Int8Linear, linear_layers_to_int8, round_to_int8


@pytest.mark.parametrize("rows", [(), (0,), (1,), (FEW_ROWS,), (3, FEW_ROWS)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_rounded_weights(rows, dtype):
    torch.manual_seed(0)
    layer = nn.Linear(64, 37).to(dtype)
    small = Int8Linear(layer.weight.detach(), layer.bias.detach())
    assert (small.weight.float() * small.scale.float()[:, None] - layer.weight.float()).abs().max() < 1e-3
    x = torch.randn(*rows, 64, dtype=dtype)
    rounded = (x.double() @ (small.weight.double() * small.scale.double()[:, None]).T) + layer.bias.double()
    torch.testing.assert_close(small(x).double(), rounded, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.02)


def test_a_weight_of_zeros_stays():
    assert not Int8Linear(torch.zeros(4, 32))(torch.randn(2, 32)).any()


def test_layers_whose_width_the_kernel_cannot_read_stay():
    model = nn.Sequential(nn.Linear(16, 64), nn.Sequential(nn.Linear(64, 8)))
    linear_layers_to_int8(model)
    assert [type(layer) for layer in model.modules() if not isinstance(layer, nn.Sequential)] == [nn.Linear, Int8Linear]
    assert model(torch.randn(5, 16)).shape == (5, 8)


def test_gpt_2s_layers_are_rounded_too():
    """They hold a weight the other way around."""
    torch.manual_seed(0)
    layer = Conv1D(37, 64)
    nn.init.normal_(layer.bias)
    model = nn.Sequential(layer)
    x = torch.randn(5, 64)
    expected = model(x).detach()
    linear_layers_to_int8(model)
    assert type(model[0]) is Int8Linear
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0.01)
    assert not torch.equal(model(x), expected)


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match="bf16"):
        Int8Linear(torch.zeros(4, 32, device="meta"))
    with pytest.raises(ValueError, match="not 40"):
        Int8Linear(torch.zeros(4, 40))
    monkeypatch.delattr(torch, "_weight_int8pack_mm")
    with pytest.raises(ValueError, match="install"):
        Int8Linear(torch.zeros(4, 32))


def test_rounded_weights_give_what_eight_bits_give():
    torch.manual_seed(0)
    narrow = nn.Linear(40, 3)
    model = nn.Sequential(nn.Linear(64, 32), Conv1D(40, 32), narrow)
    table, x = torch.randn(9, 64), torch.randn(5, 64)
    before = table.clone()
    kept = narrow.weight.clone()
    round_to_int8(model, table)
    whole = model(x)
    assert 0 < (table - before).abs().max() < 0.02
    assert torch.equal(narrow.weight, kept)  # of a width that stays
    linear_layers_to_int8(model)
    torch.testing.assert_close(model(x), whole, rtol=0, atol=1e-5)
