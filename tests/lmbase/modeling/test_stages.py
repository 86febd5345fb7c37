"""Stages of a trunk run apart are the trunk."""

import pytest
import torch
from tiny import LMS, make_lm

from lmbase.modeling.cache import RowCache
from lmbase.modeling.stages import band, embed, finish, run_blocks
from lmbase.modeling.trunk import blocks, output_table, trunk_of

IDS = torch.tensor([[2, 10, 11, 12, 13, 14], [2, 20, 21, 22, 23, 24]])
PLACES = torch.arange(6).expand(2, 6)


@pytest.mark.parametrize("shape", LMS)
def test_stages_in_a_row_are_the_model(shape):
    lm = make_lm(shape, num_hidden_layers=3)
    trunk = trunk_of(lm)
    with torch.no_grad():
        states = embed(trunk, IDS, PLACES)
        for some in (blocks(trunk)[:1], blocks(trunk)[1:]):
            states = run_blocks(trunk, some, states, band(6, 6, IDS.device)[None, None], PLACES)
        logits = finish(trunk, states) @ output_table(lm).T
        assert torch.allclose(logits, lm(IDS).logits, atol=1e-5)


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_with_a_cache_it_is_the_same(shape):
    trunk = trunk_of(make_lm(shape, num_hidden_layers=3))
    cache = RowCache(2, 4, IDS.device)
    with torch.no_grad():
        whole = run_blocks(trunk, blocks(trunk), embed(trunk, IDS, PLACES), band(6, 6, IDS.device)[None, None], PLACES)
        parts = []
        for start, stop in ((0, 3), (3, 4), (4, 6)):
            visible = cache.visible(band(stop - start, 6, IDS.device))
            places = PLACES[:, start:stop]
            x = embed(trunk, IDS[:, start:stop], places)
            parts.append(run_blocks(trunk, blocks(trunk), x, visible, places, cache))
            cache.keep([range(stop - start)] * 2)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


def test_a_band_sees_itself_what_stands_before_and_the_first():
    assert band(4, 2, torch.device("cpu")).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1]]
