"""Rotary positions stay exact when weights are cast."""

import copy

import pytest
import torch
from tiny import make_lm

from lmbase.modeling.devices import moved
from lmbase.modeling.pretrained import load_lm, read_config
from lmbase.modeling.rotation import keep_rotation_exact
from lmbase.modeling.trunk import new_trunk, trunk_of


def rotation(model):
    return trunk_of(model).get_submodule("rotary_emb")


@torch.no_grad()
@pytest.mark.parametrize("shape", ["llama", "qwen2", "qwen3"])
def test_a_cast_rounds_no_position(shape, tmp_path):
    """Of a trunk, of a model with random weights, and of a loaded one; copied and back again."""
    make_lm(shape, max_position_embeddings=2048).save_pretrained(tmp_path)
    positions = torch.tensor([[0, 1, 1000, 2047]])
    models = [load_lm(str(tmp_path)), load_lm(f"random:{shape}-tiny"), new_trunk(read_config(str(tmp_path)))]
    for model in models:
        x = torch.zeros(1, 4, 1)
        expected = rotation(model)(x, positions)
        half = moved(copy.deepcopy(model), dtype=torch.bfloat16)
        assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
        assert rotation(half)(x.bfloat16(), positions)[0].dtype == torch.bfloat16
        for cast in (half, moved(copy.deepcopy(half), dtype=torch.float32)):
            torch.testing.assert_close(rotation(cast)(x, positions), expected, rtol=0, atol=0)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_cast_leaves_the_frequencies_and_moves_all_else(cast):
    trunk = trunk_of(make_lm("llama"))
    keep_rotation_exact(trunk)
    before = dict(rotation(trunk).named_buffers())
    trunk.to(cast)
    after = dict(rotation(trunk).named_buffers())
    assert before.keys() == after.keys()
    for name, buffer in before.items():
        assert after[name].dtype == torch.float32
        assert torch.equal(after[name], buffer)
    assert {p.dtype for p in trunk.parameters()} == {cast}
    assert {b.device.type for b in rotation(moved(trunk, "meta")).buffers()} == {"meta"}, "a move is no cast"


def test_a_trunk_that_does_not_rotate_is_left_alone():
    trunk = trunk_of(make_lm("gpt2"))
    before = [name for name, _ in trunk.named_modules()]
    keep_rotation_exact(trunk)
    assert [name for name, _ in trunk.named_modules()] == before
