"""BrierLM against its definition."""

from itertools import product

import numpy as np
import pytest

from sllm.evaluation.brier import LONGEST, brier, brier_terms, repeated_share

TRUTH = [3, 1, 4, 1]


def test_a_term_is_its_definition():
    cases = [([3, 1, 4, 1], [3, 1, 0, 1]), ([3, 0, 4, 1], [3, 0, 4, 1]), ([0, 1, 4, 1], [1, 1, 4, 1])]
    found = brier_terms([a for a, _ in cases], [b for _, b in cases], [TRUTH] * len(cases))
    for row, (a, b) in zip(found, cases, strict=True):
        expected = [(a[:n] == TRUTH[:n]) + (b[:n] == TRUTH[:n]) - (a[:n] == b[:n]) for n in range(1, LONGEST + 1)]
        assert row.tolist() == expected


def test_in_expectation_it_is_the_brier_score_of_each_length():
    """Over all pairs that a model of two independent tokens may draw, weighted by their probabilities."""
    p = np.array([0.2, 0.5, 0.3])
    runs = list(product(range(3), repeat=LONGEST))
    weights = np.array([np.prod(p[list(run)]) for run in runs])
    y = (1, 2, 1, 0)
    pairs = list(product(range(len(runs)), repeat=2))
    terms = brier_terms([runs[i] for i, _ in pairs], [runs[j] for _, j in pairs], [y] * len(pairs))
    found = np.array([weights[i] * weights[j] for i, j in pairs]) @ terms
    for n in range(1, LONGEST + 1):
        assert found[n - 1] == pytest.approx(2 * np.prod(p[list(y[:n])]) - (p**2).sum() ** n)


def test_the_true_distribution_is_judged_best():
    rng = np.random.default_rng(0)
    p, num = np.array([0.6, 0.3, 0.1]), 30_000

    def draws(q):
        return rng.choice(3, size=(num, LONGEST), p=q)

    y = draws(p)
    scores = {name: brier_terms(draws(q), draws(q), y)[:, 0].mean() for name, q in
              (("true", p), ("flat", np.full(3, 1 / 3)), ("sure", np.array([1.0, 0, 0])))}  # fmt: skip
    assert scores["true"] == max(scores.values())
    assert scores["true"] == pytest.approx((p**2).sum(), abs=0.02)


def test_figures_are_means_with_intervals_over_documents():
    terms = np.tile([[1.0, 0.5, 0.25, 0.25]], (6, 1))
    even = brier(terms, [0, 0, 1, 1, 2, 2]).columns()
    assert even["brier_1"] == even["brier_1_low"] == even["brier_1_high"] == 100
    assert even["brier_lm"] == pytest.approx(100 * (0.5 * 0.25 * 0.25) ** 0.25)
    terms[:4] *= 0.5
    uneven = brier(terms, [0, 0, 1, 1, 2, 2]).columns()
    assert uneven["brier_1_low"] < uneven["brier_1"] < uneven["brier_1_high"]
    terms[:, 3] = -0.1
    assert brier(terms, [0, 0, 1, 1, 2, 2]).whole == (0, 0, 0)
    with pytest.raises(ValueError, match="two or more"):
        brier(terms, [0] * 6)


def test_repeated_runs_are_counted_within_texts():
    assert repeated_share([[1, 2, 1, 2, 1], [1, 2]], 2) == pytest.approx(2 / 5)
    assert repeated_share([[1, 2]], 4) == 0
