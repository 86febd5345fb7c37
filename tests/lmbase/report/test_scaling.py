"""Laws that were planted are found again, and say what they must of each other."""

import math

import numpy as np
import pytest

from lmbase.report.scaling import (
    Interval,
    Law,
    Run,
    compare_laws,
    distinct,
    drawn_laws,
    drawn_together,
    fit_law,
    told_factor,
    told_law,
)

PLANTED = Law(floor=0.9, a=30, alpha=0.3, b=80, beta=0.35)
SIZES, TOKENS = (4e5, 1e6, 3e6, 1e7), (5e5, 1e6, 2e6, 4e6)


def runs_of(law, sizes=SIZES, tokens=TOKENS, noise=0.0, seed=0):
    noises = np.random.default_rng(seed).normal(size=(len(sizes), len(tokens))) * noise
    return [Run(n, d, law.bits(n, d) * (1 + noises[i, j])) for i, n in enumerate(sizes) for j, d in enumerate(tokens)]


def test_a_planted_law_is_found():
    found = fit_law(runs_of(PLANTED))
    for name in ("floor", "a", "alpha", "b", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(PLANTED, name), rel=0.06), name
    assert found.bits(3e7, 2e7) == pytest.approx(PLANTED.bits(3e7, 2e7), rel=2e-3)  # beyond the grid
    assert max(map(abs, found.errors)) < 1e-3


@pytest.mark.parametrize(("sizes", "tokens"), [((1e6,), (*TOKENS, 8e6)), ((*SIZES, 3e7), (1e6,))])
def test_one_size_or_one_number_of_tokens_has_a_law_of_one_term(sizes, tokens):
    found = fit_law(runs_of(PLANTED, sizes, tokens))
    assert (found.a == 0) == (len(sizes) == 1)
    assert (found.b == 0) == (len(tokens) == 1)
    assert found.bits(sizes[-1] * 2 ** (len(sizes) > 1), 2e6 if len(tokens) > 1 else 1e6) == pytest.approx(
        PLANTED.bits(sizes[-1] * 2 ** (len(sizes) > 1), 2e6 if len(tokens) > 1 else 1e6), rel=5e-3
    )


def test_tokens_that_differ_by_a_part_of_a_batch_are_the_same():
    assert distinct([1e6, 1.004e6, 2e6, 1.999e6]) == 2
    runs = [Run(n, 1e6 * (1 + 0.001 * i), PLANTED.bits(n, 1e6)) for i, n in enumerate((*SIZES, 3e7))]
    assert fit_law(runs).b == 0


@pytest.mark.parametrize("runs", [[], runs_of(PLANTED)[:3], runs_of(PLANTED)[:1] * 9, runs_of(PLANTED, SIZES[:2])[:5]])
def test_too_few_runs_are_refused(runs):
    with pytest.raises(ValueError, match=r"token rows: .* too few to fit a law to: give at least [46]"):
        fit_law(runs, "token rows")


def test_what_one_kind_needs_of_the_other():
    """A law whose data term is 1.2 times larger needs 1.2 ** (1 / beta) times the tokens, whatever the run."""
    worse = Law(PLANTED.floor, PLANTED.a, PLANTED.alpha, 1.2 * PLANTED.b, PLANTED.beta)
    runs, theirs = runs_of(PLANTED, noise=2e-3), runs_of(worse, noise=2e-3, seed=1)
    ours, law = fit_law(runs), fit_law(theirs)
    found = compare_laws(runs, [ours, *drawn_laws(runs, ours)], [law, *drawn_laws(theirs, law)])
    last = found[-1]
    assert last.tokens is not None
    assert last.parameters is not None
    assert last.tokens.low < 1.2 ** (1 / 0.35) < last.tokens.high
    assert last.tokens.value == pytest.approx(1.2 ** (1 / 0.35), rel=0.15)
    assert 1 < last.parameters.low < last.parameters.value < last.parameters.high
    exact = PLANTED.bits(1e7, 4e6)
    assert worse.bits(1e7, worse.tokens_for(exact, 1e7)) == pytest.approx(exact)
    assert worse.bits(worse.parameters_for(exact, 4e6), 4e6) == pytest.approx(exact)


def test_what_no_number_of_tokens_reaches_is_infinite():
    flat = Law(floor=2.0, a=0, alpha=1, b=80, beta=0.35)
    assert math.isinf(flat.tokens_for(1.9, 1e6))
    assert math.isinf(flat.parameters_for(2.1, 1e6))
    assert (
        told_factor(Interval(math.inf, 2.0, math.inf), "tokens", flat)
        == "more tokens than any number of them, by the fit"
    )
    assert (
        told_factor(Interval(1.2, 1.1, math.inf), "tokens", flat) == "1.20 times the tokens (95% 1.10 to without end)"
    )
    assert "far beyond what was run" in told_factor(Interval(9.0, 8.0, 10.0), "parameters", PLANTED)
    assert "unknown number of parameters" in told_factor(Interval(math.inf, 2.0, math.inf), "parameters", flat)
    assert told_law("it", flat) == "it: bits/byte = 2.000 + 80 / D^0.350 (no run further off than 0.0%)"


def test_draws_vary_as_much_as_the_runs_do():
    runs = runs_of(PLANTED, noise=5e-3)
    law = fit_law(runs)
    drawn = [one.bits(1e6, 1e6) for one in drawn_laws(runs, law, draws=50)]
    again = [one.bits(1e6, 1e6) for one in drawn_laws(runs, law, draws=50)]
    assert drawn == again
    assert 5e-4 < np.std(drawn) / np.mean(drawn) < 5e-3


def test_bits_that_rise_are_told_to_have_no_law():
    rising = [Run(n, d, 2 + 0.1 * i) for i, (n, d) in enumerate((n, d) for n in SIZES for d in TOKENS)]
    law = fit_law(rising)
    assert law.a == law.b == 0
    assert "THE LAW DOES NOT FIT" in told_law("it", law)
    assert "DOES NOT FIT" not in told_law("it", fit_law(runs_of(PLANTED, noise=5e-3)))


def test_seeds_of_one_place_are_no_places():
    with pytest.raises(ValueError, match=r"9 run\(s\) at 3 place\(s\), of 1 size\(s\) and 3 number\(s\)"):
        fit_law(runs_of(PLANTED, SIZES[:1], TOKENS[:3]) * 3)
    assert fit_law(runs_of(PLANTED, SIZES[:1]) * 2).over == ("tokens",)


def test_the_order_of_rows_moves_no_interval_and_kinds_of_one_grid_deviate_together():
    """Also where rows of either kind come from files in another order."""
    runs, others = runs_of(PLANTED, noise=2e-3), runs_of(PLANTED, noise=2e-3, seed=1)
    law, other = fit_law(runs), fit_law(others)

    def bits(laws):
        return [one.bits(1e6, 1e6) for one in laws]

    ours, theirs = drawn_together(runs, law, others, other, 3, draws=12)
    turned = drawn_together(runs, law, others[::-1], fit_law(others[::-1]), 3, draws=12)
    assert bits(turned[1]) == pytest.approx(bits(theirs), rel=1e-4)
    same = drawn_together(runs, law, runs[::-1], fit_law(runs[::-1]), 3, draws=12)
    assert bits(same[0]) == pytest.approx(bits(same[1]), rel=1e-4)  # a kind beside itself: no factor but 1
    apart = drawn_together(runs, law, runs[:-1], fit_law(runs[:-1]), 3, draws=12)
    assert bits(apart[0]) == bits(ours)
    gaps = np.corrcoef(*map(bits, apart))[0, 1], np.corrcoef(*map(bits, same))[0, 1]
    assert gaps[0] < 0.9 < 0.99 < gaps[1]
