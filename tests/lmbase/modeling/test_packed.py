"""Weights in fewer bits: products are those of the rounded weights, for any number of rows."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmbase.modeling.packed import (
    FEW_ROWS,
    KINDS,
    Int4Linear,
    Int8Linear,
    PackedLinear,
    pack_linear_layers,
    packed,
    packed_table,
    round_weights,
)
from lmbase.modeling.trunk import output_table
from tests.helpers.tiny import make_lm


@pytest.mark.parametrize("rows", [(), (0,), (1,), (FEW_ROWS,), (3, FEW_ROWS)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "apart"), [("int8", 1e-3), ("int4", 0.02)])
def test_a_product_is_that_of_the_rounded_weights(kind, apart, rows, dtype):
    torch.manual_seed(0)
    layer = nn.Linear(64, 37).to(dtype)  # weights of -1/8 to 1/8
    small = packed(layer.weight, kind, layer.bias)
    assert 0 < (small.unpacked() - layer.weight.float()).abs().max() < apart
    x = torch.randn(*rows, 64, dtype=dtype)
    rounded = (x.double() @ small.unpacked().double().T) + layer.bias.double()
    exact = dtype == torch.float32 and kind == "int8"
    torch.testing.assert_close(small(x).double(), rounded, rtol=0, atol=1e-5 if exact else 0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_eight_bits_hold_the_nearest_number(dtype):
    torch.manual_seed(0)
    weight = torch.randn(64, 96).to(dtype)
    small = packed(weight, "int8")
    assert isinstance(small, Int8Linear)
    assert ((small.unpacked() - weight.float()).abs() / small.scale.float()[:, None]).max() < 0.501


@pytest.mark.parametrize("kind", KINDS)
def test_what_all_kinds_hold_as_it_is(kind):
    assert not packed(torch.zeros(4, 32), kind)(torch.randn(2, 32)).any()
    rounded = packed(torch.randn(20, 64), kind).unpacked()
    torch.testing.assert_close(packed(rounded, kind).unpacked(), rounded, rtol=0, atol=1e-5)


def test_four_bits_hold_the_weights_of_q4_1():
    """Whose groups of 32 use all of 0 to 15; scale and smallest value are rounded to bf16 here."""
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (16, 2, 32)).float()
    codes[..., 0], codes[..., 1] = 0, 15
    scale, smallest = torch.rand(16, 2, 1).half() / 9, -torch.rand(16, 2, 1).half()
    weight = (codes * scale + smallest).flatten(1)
    assert (packed(weight, "int4").unpacked() - weight).abs().max() < 2**-8


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_draft_are_read_like_rows_alone(kind):
    torch.manual_seed(0)
    small, x = packed(torch.randn(48, 96).bfloat16(), kind), torch.randn(9, 96).bfloat16()
    assert torch.equal(small(x), torch.cat([small(row[None]) for row in x]))


def test_layers_whose_width_the_kernel_cannot_read_stay():
    model = nn.Sequential(nn.Linear(16, 64), nn.Sequential(nn.Linear(64, 8)))
    pack_linear_layers(model, "int8")
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
    pack_linear_layers(model, "int8")
    assert type(model[0]) is Int8Linear
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0.01)
    assert not torch.equal(model(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dtype_given_later_reaches_the_bias_and_whole_weights_are_asked_for(kind):
    model = nn.Sequential(nn.Linear(32, 16))
    pack_linear_layers(model, kind)
    if kind == "int4":  # the scale of int8 is of the rows' dtype, too
        assert model.to(torch.bfloat16)(torch.randn(2, 32).bfloat16()).dtype == torch.bfloat16
    assert "0.bias" in model.state_dict()
    with pytest.raises(ValueError, match=f"holds weights in {kind} \\(0\\).*load the model again"):
        pack_linear_layers(model, "int8")


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
def test_fp64_is_read_though_the_kernel_cannot(rows):
    layer = nn.Linear(32, 16).double()
    small = packed(layer.weight, "int8", layer.bias)
    x = torch.randn(rows, 32, dtype=torch.float64)
    torch.testing.assert_close(small(x), x @ small.unpacked().double().T + layer.bias, rtol=1e-6, atol=1e-6)


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match="bf16"):
        packed(torch.zeros(4, 32, device="meta"), "int8")
    with pytest.raises(ValueError, match="not 40"):
        packed(torch.zeros(4, 40), "int4")
    with pytest.raises(ValueError, match="'int2' are not known; known are int8, int4"):
        packed(torch.zeros(4, 32), "int2")
    monkeypatch.setattr(Int4Linear, "kernel", staticmethod(lambda: None))
    with pytest.raises(ValueError, match="install"):
        packed(torch.zeros(4, 32), "int4")


@pytest.mark.parametrize("kind", KINDS)
def test_rounded_weights_give_what_packed_ones_give(kind):
    torch.manual_seed(0)
    narrow = nn.Linear(40, 3)
    model = nn.Sequential(nn.Linear(64, 32), Conv1D(40, 32), narrow)
    table, x = torch.randn(9, 64), torch.randn(5, 64)
    before = table.clone()
    kept = narrow.weight.clone()
    round_weights(model, table, kind)
    whole = model(x)
    assert 0 < (table - before).abs().max() < 0.3
    assert torch.equal(narrow.weight, kept)  # of a width that stays
    pack_linear_layers(model, kind)
    torch.testing.assert_close(model(x), whole, rtol=0, atol=1e-5 if kind == "int8" else 0.02)


@pytest.mark.parametrize("shape", ["opt", "llama", "gpt2"])
def test_the_vocabulary_has_eight_bits_beside_layers_of_four(shape):
    """However it is packed, and however it is rounded to be scored."""
    whole, small, rounded = (make_lm(shape) for _ in range(3))
    pack_linear_layers(small, "int4")
    head = small.get_output_embeddings()
    assert type(head) is type(packed_table(torch.zeros(4, 32), "int4")) is Int8Linear
    assert {type(layer) for layer in small.modules() if isinstance(layer, PackedLinear)} == {Int8Linear, Int4Linear}
    with torch.no_grad():
        round_weights(rounded, output_table(rounded), "int4")
    assert not torch.equal(output_table(rounded), output_table(whole))
    for name, layer in small.named_modules():
        if isinstance(layer, PackedLinear):
            weight = rounded.get_submodule(name).weight
            weight = weight.T if isinstance(rounded.get_submodule(name), Conv1D) else weight
            torch.testing.assert_close(layer.unpacked(), weight, rtol=0, atol=1e-5)
