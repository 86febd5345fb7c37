"""Blocks and vocabularies that read one row: the results are the model's own."""

import shutil

import pytest
import torch
from tiny import make_lm
from torch import nn
from transformers import GenerationConfig
from transformers.pytorch_utils import Conv1D

from lmbase.modeling.cache import FixedRows
from lmbase.modeling.compiling import compiled
from lmbase.modeling.one_row import LANES, RowLinear, row_twin
from lmbase.modeling.packed import Int8Linear
from lmbase.modeling.stages import BlockRunner
from lmbase.modeling.trunk import blocks, input_table, key_value_shape, trunk_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_row_is_what_the_layer_makes_of_it(dtype):
    layer = nn.Linear(24, 37).to(dtype)  # outputs that no bundle divides
    x = torch.randn(1, 1, 24, dtype=dtype)
    found = RowLinear(layer.weight, layer.bias)(x)
    for lanes in LANES:
        torch.testing.assert_close(RowLinear(layer.weight, layer.bias, lanes=lanes)(x), found)
    assert (found.shape, found.dtype) == ((1, 1, 37), dtype)
    torch.testing.assert_close(found, layer(x))
    with pytest.raises(RuntimeError):  # two rows
        RowLinear(layer.weight)(x.expand(2, 1, 24))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.long
def test_a_kernel_is_made_and_gives_the_same():
    """Those of whole steps: tests/doors/test_kernels.py."""
    layer, norm, x = nn.Linear(24, 37), nn.LayerNorm(24), torch.randn(1, 1, 24)
    row = RowLinear(layer.weight, layer.bias)
    with torch.no_grad():
        found = compiled(lambda x: row(norm(x)), GenerationConfig())(x)
        torch.testing.assert_close(found, layer(norm(x)), rtol=1e-4, atol=1e-5)


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
    module.get_parameter("2.weight").data.mul_(2)  # behind autograd's back
    other, _ = row_twin(module, table)
    assert other is not twin
    torch.testing.assert_close(other(ids), module(ids))
    assert row_twin(module, table + 1)[1] is not head


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_blocks_outside_of_their_trunk(shape):
    """The upper ones, with a cache of their own: states of each position are those of the blocks themselves."""
    trunk = trunk_of(make_lm(shape, num_hidden_layers=4))
    twin, _ = row_twin(trunk, input_table(trunk))
    upper, length = range(2, 4), 5
    states = torch.randn(1, length, trunk.config.hidden_size)
    places = torch.arange(length)[None]
    runner, expected = BlockRunner(trunk, states, None, places, None), states
    for number in upper:
        expected = runner(blocks(trunk)[number], expected)
    heads, width = key_value_shape(trunk.config)
    layers = {number: (torch.zeros(1, heads, 8, width), torch.zeros(1, heads, 8, width)) for number in upper}

    def step(state, positions, starts):
        cache = FixedRows(layers, starts)
        mask = cache.visible(torch.ones(1, 1, dtype=torch.bool))
        runner = BlockRunner(twin, state, mask, positions, cache)
        for number in upper:
            state = runner(blocks(twin)[number], state)
        return state

    compiled = torch.compile(step, backend="eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        for i in range(length):
            found = compiled(states[:, i : i + 1], places[:, i : i + 1], places[0, i : i + 1])
            torch.testing.assert_close(found, expected[:, i : i + 1])
