"""Caches of texts that grow by different numbers of tokens hold what was kept, and nothing else."""

import warnings

import pytest
import torch
from tiny import make_lm
from torch import nn
from transformers import DynamicCache

from lmbase.modeling.cache import CACHE_KEY, FixedRows, RowCache, give_back, take_fixed_cache

CPU = torch.device("cpu")
CHAIN, TREE = torch.ones(3, 3).tril().bool(), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool()


def rows(*texts):
    """Keys (B, 1, R, 1) of these numbers, and values that are their negatives."""
    keys = torch.tensor(texts, dtype=torch.float32)[:, None, :, None]
    return keys, -keys


def seen(cache, keys, within):
    """For each text and each new row the keys that it may look at."""
    held, values = cache.update(*keys, 0)
    assert torch.equal(values, -held)
    visible = cache.visible(within).expand(len(held), 1, -1, held.shape[2])
    return [[held[b, 0, mask, 0].tolist() for mask in visible[b, 0]] for b in range(len(held))]


@pytest.mark.parametrize("capacity", [2, 16])
def test_texts_keep_rows_of_their_own_number(capacity):
    """Rows that were not kept are overwritten, kept ones close up; more room is found where it is needed."""
    cache = RowCache(2, capacity, CPU)
    assert seen(cache, rows([1, 2, 3], [11, 12, 13]), CHAIN) == [
        [[1], [1, 2], [1, 2, 3]],
        [[11], [11, 12], [11, 12, 13]],
    ]
    cache.keep([[0, 1, 2], [0, 2]])
    assert cache.lengths == [3, 2]
    assert seen(cache, rows([4, 5, 6], [14, 15, 16]), TREE) == [
        [[1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 6]],
        [[11, 13, 14], [11, 13, 14, 15], [11, 13, 14, 16]],
    ]
    cache.keep([[], [0, 2]])
    assert seen(cache, rows([7], [17]), torch.ones(1, 1).bool()) == [[[1, 2, 3, 7]], [[11, 13, 14, 16, 17]]]


def test_a_text_goes_on_alone():
    cache = RowCache(3, 4, CPU)
    cache.update(*rows([1, 2], [11, 12], [21, 22]), 0)
    cache.keep([[0], [0, 1], [0]])
    cache.select([1, 0])
    assert (cache.lengths, cache.num_bytes) == ([2, 1], 3 * 2 * 4)
    assert seen(cache, rows([13], [3]), torch.ones(1, 1).bool()) == [[[11, 12, 13]], [[1, 3]]]


def test_tensors_alone_say_where_rows_of_a_fixed_cache_stand():
    cache = RowCache(2, 6, CPU)
    cache.update(*rows([1, 2], [11, 12]), 0)
    cache.keep([[0, 1], [0]])
    fixed = FixedRows([cache.layers[0]], cache.starts)
    found = seen(fixed, rows([3, 4, 5], [13, 14, 15]), TREE)
    assert found == seen(cache, rows([3, 4, 5], [13, 14, 15]), TREE)
    assert fixed.places(2).tolist() == [[2, 3], [1, 2]]


def test_a_fixed_cache_is_taken_again_empty_and_at_the_same_address():
    owner, like = nn.Linear(1, 1), torch.zeros(1)
    first = take_fixed_cache(owner, "trunk", 2, (2, 1, 6, 3), like)
    first.layers[1][0].fill_(torch.nan)
    first.keep([[0], [0, 1]])
    inner = take_fixed_cache(owner, "trunk", 2, (2, 1, 6, 3), like)  # while the first is in use
    assert inner is not first
    give_back(owner, "trunk", first)
    assert take_fixed_cache(owner, "decoder", 2, (2, 1, 6, 3), like) is not first
    again = take_fixed_cache(owner, "trunk", 2, (2, 1, 6, 3), like)
    assert again is first
    assert again.lengths == [0, 0]
    assert not any(x.any() for layer in again.layers.values() for x in layer), "what is masked must be finite"
    give_back(owner, "trunk", again)
    for shape, wanted in (((2, 1, 7, 3), like), ((2, 1, 6, 3), like.double())):
        assert take_fixed_cache(owner, "trunk", 2, shape, wanted) is not first
        give_back(owner, "trunk", first)


def test_models_take_a_cache_and_give_it_back_by_its_name_in_this_transformers():
    """Newer releases call it otherwise, and say so at every pass where the old name is used."""
    cache = DynamicCache()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        output = make_lm("llama")(torch.tensor([[5, 6]]), use_cache=True, **{CACHE_KEY: cache})
    assert output[CACHE_KEY] is cache
    assert cache.get_seq_length() == 2
