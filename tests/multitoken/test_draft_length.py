"""How many heads draft: whatever pays by measured acceptance and cost."""

import pytest
import torch

from multitoken.draft_length import DraftLength


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
