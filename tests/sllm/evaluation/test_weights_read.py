"""Weights read to write a token, counted by hand."""

import pytest
from families import loaded_as, make_family_heads, make_lm
from tiny import make_own, make_sllm

from lmbase.modeling.trunk import blocks
from sllm.evaluation.weights_read import weights_read


def size(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_token_level_models_read_their_layers_and_the_table_once():
    lm = make_lm("llama")
    assert weights_read(loaded_as(lm), 8.0) == 260 * 16 + size(lm.model.layers)
    heads = make_family_heads()
    assert weights_read(loaded_as(heads), 8.0) == 260 * 16 + size(*blocks(heads.trunk), heads.heads[0])


def test_an_sllm_reads_its_trunk_once_a_sentence():
    model = make_sllm()
    decoder = size(model.autoencoder.decoder) + model.output_table.numel()
    read = {n: weights_read(loaded_as(model), n) for n in (1.0, 4.0, 1e9)}
    assert read[1e9] == pytest.approx(decoder)
    assert 4 * (read[4.0] - decoder) == pytest.approx(read[1.0] - decoder)
    assert read[1.0] > 2 * decoder + size(*blocks(model.trunk), model.autoencoder.encoder)


def test_own_layers_read_the_lower_ones_at_every_token():
    model = make_own()  # 1 lower, 2 upper of 5
    layer = size(blocks(model.trunk)[0])
    carry = model.own.carry.weight.numel()
    assert weights_read(loaded_as(model), 1e9) == pytest.approx(3 * layer + carry + model.output_table.numel())
