"""Drafting and verifying without a model."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multitoken.draft_length import DraftLength
from multitoken.draft_tree import DraftTree, verify
from multitoken.speculation import SpeculationStatistics

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


def test_statistics_count_a_draft_only_where_the_one_before_it_was_accepted():
    found = SpeculationStatistics()
    found.add(3, 3, 4)
    found.add(3, 1, 2)
    found.add(3, 0, 1)
    found.add(0, 0, 1)
    assert (found.num_forwards, found.num_tokens, found.tokens_per_forward) == (4, 8, 2.0)
    assert (found.offered, found.accepted) == ([3, 2, 1], [2, 1, 1])
    assert found.acceptance == [2 / 3, 1 / 2, 1.0]


def simulate(rate: float, cost: dict[int, float], steps: int = 400, drafts: int = 3):
    """A model that accepts each guess with a probability, and steps that take so long."""
    generator = torch.Generator().manual_seed(0)
    length = DraftLength(drafts)
    seconds = tokens = 0.0
    chosen = []
    for _ in range(steps):
        k = length.choose()
        accepted = 0
        while accepted < k and torch.rand((), generator=generator) < rate:
            accepted += 1
        length.record(k, accepted, cost[k])
        seconds, tokens = seconds + cost[k], tokens + accepted + 1
        chosen.append(k)
    return length, seconds / tokens, chosen


COST = {0: 1.0, 1: 1.3, 2: 1.6, 3: 2.0}


def test_the_guard_costs_little_where_drafts_are_never_accepted():
    length, seconds_per_token, chosen = simulate(0.0, COST, 256)
    assert seconds_per_token < 1.05
    assert chosen.count(0) > 245
    assert length.break_even == pytest.approx(2.0)


def test_a_draft_that_cannot_pay_is_hardly_tried():
    """Three guesses, all accepted, for the price of five steps."""
    _, seconds_per_token, chosen = simulate(1.0, {0: 1.0, 1: 2.5, 2: 4.0, 3: 5.0}, 256)
    assert chosen.count(0) >= 256 - 4
    assert seconds_per_token < 1.05


def test_drafting_goes_on_where_it_pays():
    _, seconds_per_token, chosen = simulate(0.9, COST)
    assert chosen[-300:].count(0) < 5
    assert seconds_per_token < 0.65


def test_a_shorter_draft_is_taken_where_it_pays_more():
    _, _, chosen = simulate(0.5, {0: 1.0, 1: 1.05, 2: 1.9, 3: 3.0})
    assert max(set(chosen[-300:]), key=chosen[-300:].count) == 1


def test_without_further_heads_there_is_nothing_to_choose():
    length = DraftLength(0)
    assert length.choose() == 0
    length.record(0, 0, 1.0)
    assert length.break_even is None
