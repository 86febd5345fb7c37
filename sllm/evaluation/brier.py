"""BrierLM: how near a model's samples come to a text, without asking for a likelihood (arXiv 2510.27688).

At a place in a text a model draws two continuations x1, x2, each of some tokens, and y is what the text says. For the
first n tokens of each,

    1{x1 = y} + 1{x2 = y} - 1{x1 = x2}

is in expectation 2 p(y) - sum_x p(x)^2, the Brier score of the model's distribution p of n tokens, turned so that more
is better and up to a constant of the text. It is strictly proper: no model does better than the true distribution.

P places.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LONGEST = 4  # tokens of a continuation
DRAWS = 2_000  # of the bootstrap

Ids = Sequence[int]


def brier_terms(first: Sequence[Ids], second: Sequence[Ids], truth: Sequence[Ids]) -> np.ndarray:
    """(P, LONGEST) the estimate of each place for n = 1..LONGEST.

    Args: continuations of LONGEST tokens, those of texts that end before filled up with one id that is no token.
    """
    x1, x2, y = (np.asarray(ids, dtype=np.int64).reshape(-1, LONGEST) for ids in (first, second, truth))
    pairs = ((x1, y), (x2, y), (x1, x2))
    a, b, same = (np.logical_and.accumulate(left == right, axis=1).astype(float) for left, right in pairs)
    return a + b - same


@dataclass
class Brier:
    """Figures of a model: each a hundred times the mean, with the ends of its 95% interval over documents."""

    by_n: list[tuple[float, float, float]]  # of n = 1..LONGEST
    whole: tuple[float, float, float]  # their geometric mean; 0 where one of them is not above 0

    def columns(self) -> dict[str, float]:
        named = {"brier_lm": self.whole} | {f"brier_{n}": found for n, found in enumerate(self.by_n, start=1)}
        ends = ("", "_low", "_high")
        return {f"{name}{end}": x for name, found in named.items() for end, x in zip(ends, found, strict=True)}


def brier(terms: np.ndarray, documents: Sequence[int], seed: int = 0) -> Brier:
    """Figures of the estimates (P, LONGEST) of places in documents (P,), which the bootstrap draws whole.

    Raises:
        ValueError: places of fewer than two documents.
    """
    numbers, index = np.unique(np.asarray(documents), return_inverse=True)
    if len(numbers) < 2:
        raise ValueError(f"Places of {len(numbers)} document(s) have no interval over documents: give two or more.")
    sums = np.zeros((len(numbers), LONGEST + 1))
    np.add.at(sums, index, np.concatenate([terms, np.ones((len(terms), 1))], axis=1))
    counts = np.random.default_rng(seed).multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), DRAWS)
    found = np.concatenate([sums.sum(0)[None], counts @ sums])  # (1+DRAWS,LONGEST+1)
    means = 100 * found[:, :-1] / found[:, -1:]
    whole = np.exp(np.log(np.maximum(means, 1e-300)).mean(1)) * (means > 0).all(1)
    columns = [*means.T, whole]
    figures = []
    for x in columns:
        low, high = np.quantile(x[1:], [0.025, 0.975])
        figures.append((float(x[0]), float(low), float(high)))
    return Brier(figures[:-1], figures[-1])


def repeated_share(texts: Sequence[Ids], n: int) -> float:
    """Share of the runs of n tokens that stood in their own text before; 0 where no text is that long."""
    repeated = total = 0
    for ids in texts:
        runs = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        repeated, total = repeated + len(runs) - len(set(runs)), total + len(runs)
    return repeated / max(total, 1)
