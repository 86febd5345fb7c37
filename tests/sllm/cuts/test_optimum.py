"""The cheapest cuts are the cheapest of all, and a price is a sum over tokens."""

from itertools import combinations

import numpy as np
import pytest

from sllm.cuts.optimum import at_rate, capped, cheapest, price


class Table:
    """Costs drawn at random."""

    def __init__(self, size, longest):
        rows = np.random.default_rng(0).random((size, longest))
        self.size, self.table = size, np.where(np.arange(size)[:, None] + np.arange(longest) < size, rows, 0)

    def of(self, starts):
        return self.table[list(starts)]


def test_no_way_to_cut_is_cheaper():
    costs, places = Table(11, 6), [0, 2, 3, 5, 6, 8, 9]
    for per_piece in (0.01, 0.3, 1.0):
        every = [
            (0, *some)
            for n in range(len(places))
            for some in combinations(places[1:], n)
            if max(np.diff([0, *some, 11])) <= 6
        ]
        best = min(price(costs, starts) + per_piece * len(starts) for starts in every)
        found = cheapest(costs, places, per_piece)
        assert price(costs, found) + per_piece * len(found) == pytest.approx(best)
        assert found[0] == 0


def test_a_price_is_that_of_each_token_in_its_piece():
    costs = Table(5, 4)
    expected = costs.table[0, :2].sum() + costs.table[2, :3].sum()
    assert price(costs, [0, 2]) == pytest.approx(expected)


def test_a_cap_cuts_as_often_as_it_takes():
    assert capped([0, 3], 12, 4) == [0, 3, 7, 11]


def test_a_setting_is_found_at_which_there_are_so_many_pieces():
    setting = at_rate(lambda length: [list(range(0, 1000, max(1, round(length))))], 100, 1, 100)
    assert 9.5 <= setting <= 10.5
