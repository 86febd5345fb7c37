"""What a way of cutting costs, and the cheapest one there is: pieces of a text as their first tokens, the first one 0.

N tokens of a text, S starts.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

TRIES = 16  # of a bisection


class Costs(Protocol):
    """As `stale_reader.DocumentCosts`."""

    size: int

    def of(self, starts: Sequence[int]) -> np.ndarray: ...


def capped(starts: Sequence[int], size: int, longest: int) -> list[int]:
    """The starts of pieces of at most `longest` tokens: longer ones are cut as often as it takes."""
    ends = [*starts[1:], size]
    return [place for start, end in zip(starts, ends, strict=True) for place in range(start, end, longest)]


def price(costs: Costs, starts: Sequence[int]) -> float:
    """Nats of a text that is cut so; no piece may be longer than the costs reach."""
    lengths = np.diff([*starts, costs.size])
    rows = costs.of(starts)
    return float(np.where(np.arange(rows.shape[1]) < lengths[:, None], rows, 0).sum(dtype=np.float64))


def cheapest(costs: Costs, places: Sequence[int], per_piece: float) -> list[int]:
    """The starts, out of `places` (rising, 0 first), that cost least when a piece costs `per_piece` nats more.

    Dynamic programming: the best way to cut the text before a place is one piece behind the best way before that
    piece's beginning. It looks at the whole text, so no rule that reads from left to right can be better.
    """
    rows = costs.of(places)
    longest = rows.shape[1]
    sums = np.concatenate([np.zeros((len(places), 1)), np.cumsum(rows, axis=1, dtype=np.float64)], axis=1)
    borders = np.array([*places, costs.size])
    best, came = np.zeros(len(borders)), np.zeros(len(borders), np.int64)
    first = 0
    for k in range(1, len(borders)):
        while borders[k] - borders[first] > longest:
            first += 1
        before = np.arange(first, k)
        totals = best[before] + sums[before, borders[k] - borders[before]] + per_piece
        choice = int(totals.argmin())
        best[k], came[k] = totals[choice], before[choice]
    found, k = [], len(borders) - 1
    while k:
        k = int(came[k])
        found.append(int(borders[k]))
    return found[::-1]


def at_rate(cut: Callable[[float], Sequence[Sequence[int]]], pieces: float, low: float, high: float) -> float:
    """The setting, between low and high (both positive), at which `cut` makes about so many pieces in all; more of it
    makes fewer."""
    for _ in range(TRIES):
        setting = (low * high) ** 0.5
        made = sum(map(len, cut(setting)))
        if abs(made - pieces) <= 0.002 * pieces:
            break
        low, high = (setting, high) if made > pieces else (low, setting)
    return setting
