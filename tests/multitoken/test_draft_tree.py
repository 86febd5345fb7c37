"""Trees of drafts: their shapes, and which of their nodes are accepted."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multitoken.draft_tree import DraftTree, verify

TREE = DraftTree(((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)))


def test_a_chain_accepts_all_some_or_none():
    tree = DraftTree.chain(3)
    drafts = [7, 10, 11, 12]
    assert verify(tree, drafts, [10, 11, 12, 13]) == [0, 1, 2, 3]
    assert verify(tree, drafts, [10, 99, 12, 13]) == [0, 1]  # what follows a wrong guess does not count
    assert verify(tree, drafts, [99, 11, 12, 13]) == [0]
    assert verify(DraftTree.chain(0), [7], [10]) == [0]


def test_a_tree_follows_the_branch_that_was_chosen():
    assert TREE.nodes == ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0))
    drafts = [7, 10, 20, 11, 21, 11, 12]
    assert verify(TREE, drafts, [20, 0, 11, 0, 0, 99, 0]) == [0, 2, 5]
    assert verify(TREE, drafts, [10, 21, 0, 0, 99, 0, 0]) == [0, 1, 4]
    assert verify(TREE, drafts, [10, 11, 0, 12, 0, 0, 99]) == [0, 1, 3, 6]
    assert verify(TREE, drafts, [30, 11, 11, 12, 0, 0, 0]) == [0]


def test_rows_see_what_is_on_the_way_to_them():
    assert TREE.visible.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 0, 1, 0, 0, 1, 0],
        [1, 1, 0, 1, 0, 0, 1],
    ]
    chain = DraftTree.chain(4)
    assert torch.equal(chain.visible, torch.ones(5, 5).tril().bool())


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=1, max_size=4), min_size=1, max_size=4), st.integers(0, 12))
def test_a_tree_of_measured_rates_takes_the_likeliest_paths(rates, num_nodes):
    tree = DraftTree.from_acceptance(rates, num_nodes)

    def value(path):
        return math.prod(rates[depth][rank] for depth, rank in enumerate(path))

    every = [path for d in range(len(rates)) for path in product(*(range(len(level)) for level in rates[: d + 1]))]
    best = sorted(map(value, every), reverse=True)[:num_nodes]
    assert sorted(map(value, tree.paths), reverse=True) == pytest.approx(best)


@pytest.mark.parametrize(
    ("paths", "words"),
    [([[]], "one or more ranks"), ([[0], [0]], "twice"), ([[0, 1]], "hangs in the air"), ([[-1]], "from 0")],
)
def test_impossible_trees_are_refused(paths, words):
    with pytest.raises(ValueError, match=words):
        DraftTree(tuple(map(tuple, paths)))


def test_pruning_keeps_what_is_above():
    assert TREE.pruned(1).nodes == ((), (0,), (1,))
    assert TREE.pruned(0).depth == 0
    assert TREE.pruned(9) is TREE
