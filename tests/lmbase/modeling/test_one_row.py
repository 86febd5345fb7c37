"""Blocks and vocabularies that read one row: the results are the model's own."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmbase.modeling.int8 import Int8Linear
from lmbase.modeling.one_row import RowLinear, row_twin


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_row_is_what_the_layer_makes_of_it(dtype):
    layer = nn.Linear(24, 37).to(dtype)  # outputs that no bundle divides
    x = torch.randn(1, 1, 24, dtype=dtype)
    found = RowLinear(layer.weight, layer.bias)(x)
    assert (found.shape, found.dtype) == ((1, 1, 37), dtype)
    torch.testing.assert_close(found, layer(x))
    with pytest.raises(RuntimeError):  # two rows
        RowLinear(layer.weight)(x.expand(2, 1, 24))


def test_weights_in_eight_bits_stay_so():
    layer = Int8Linear(torch.randn(20, 32), torch.randn(20))
    x = torch.randn(1, 32)
    twin, _ = row_twin(nn.Sequential(layer), torch.zeros(2, 32))
    assert twin[0].bundles.dtype == torch.int8
    torch.testing.assert_close(twin(x), layer(x))


def test_the_twin_shares_and_is_made_again_only_for_other_weights():
    module = nn.Sequential(nn.Embedding(5, 8), nn.LayerNorm(8), nn.Linear(8, 8), Conv1D(3, 8)).eval()
    ids, table = torch.tensor([[3]]), torch.randn(5, 8)
    twin, head = row_twin(module, table)
    torch.testing.assert_close(twin(ids), module(ids))
    assert all(twin[i].weight is module[i].weight for i in range(2))
    assert row_twin(module, table) == (twin, head)
    module[2].weight.data.mul_(2)  # behind autograd's back
    other, _ = row_twin(module, table)
    assert other is not twin
    torch.testing.assert_close(other(ids), module(ids))
    assert row_twin(module, table + 1)[1] is not head
