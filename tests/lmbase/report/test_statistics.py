"""The arithmetic of figures: sums before quotients, and intervals that cover what they say."""

import math

import numpy as np
import pytest
import torch

from lmbase.report.statistics import bits_interval, bits_per_byte, paired_bootstrap, perplexity


def mean_of_batch_means(nats, tokens):
    """Published fault 6: every batch weighs the same, however few tokens it holds."""
    return math.exp(np.mean([n / t for n, t in zip(nats, tokens, strict=True)]))


def test_unequal_batches_are_summed_before_dividing():
    nats, tokens = [300.0, 2.0], [100, 10]  # an easy last batch of ten tokens
    ours = perplexity(nats, tokens)
    assert ours == pytest.approx(math.exp(302 / 110))
    assert mean_of_batch_means(nats, tokens) < 0.4 * ours  # the fault flatters here by more than half
    assert mean_of_batch_means(nats, [100, 100]) == pytest.approx(
        perplexity(nats, [100, 100])
    )  # and hides on equal ones


def test_bits_per_byte_of_a_coin_per_byte_is_one():
    assert bits_per_byte(math.log(2) * 40, 40) == pytest.approx(1.0)
    assert bits_per_byte(torch.tensor([math.log(2), 0.0]), torch.tensor([1, 3])) == pytest.approx(0.25)


@pytest.mark.parametrize("nats", [float("nan"), [1.0, float("inf")]])
def test_a_document_without_a_finite_score_is_an_error_and_not_dropped(nats):
    with pytest.raises(ValueError, match="not finite"):
        bits_per_byte(nats, [3] * np.size(nats))


def test_nothing_scored_is_an_error():
    with pytest.raises(ValueError, match="0 bytes were scored"):
        bits_per_byte([], [])
    with pytest.raises(ValueError, match="no finite perplexity"):
        perplexity(1e6, 1)


def test_the_interval_of_bits_per_byte_holds_it_and_narrows_with_documents():
    rng = np.random.default_rng(0)
    sizes = rng.integers(500, 1500, 400)
    nats = sizes * rng.uniform(0.5, 1.5, 400)
    low, high = bits_interval(nats, sizes)
    assert low < bits_per_byte(nats, sizes) < high
    few_low, few_high = bits_interval(nats[:20], sizes[:20])
    assert few_high - few_low > 2 * (high - low)
    assert bits_interval(sizes[:3] * math.log(2), sizes[:3]) == pytest.approx((1.0, 1.0))


def test_bootstrap_of_equal_models_is_one_without_spread():
    generator = np.random.default_rng(0)
    num_bytes = generator.integers(100, 2000, size=30)
    nats = num_bytes * generator.uniform(0.5, 2, size=30)  # documents differ a lot; the pairs do not
    assert paired_bootstrap(nats * 1.02, num_bytes, nats, num_bytes) == pytest.approx((1.02, 1.02, 1.02))


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for seed in range(100):
        num_bytes = generator.integers(500, 1500, size=40)
        hard = generator.uniform(0.8, 1.6, size=40) * num_bytes
        nats = hard * generator.normal(1.05, 0.05, size=40)
        _, low, high = paired_bootstrap(nats, num_bytes, hard, num_bytes, seed, draws=400)
        covered += low <= 1.05 <= high
    assert 85 <= covered <= 99


def test_bootstrap_repeats_with_its_seed_and_pairs_its_documents():
    generator = np.random.default_rng(2)
    num_bytes, nats = generator.integers(50, 90, size=9), generator.uniform(40, 90, size=9)
    other = nats * generator.uniform(0.9, 1.2, size=9)
    first = paired_bootstrap(nats, num_bytes, other, num_bytes, seed=3, draws=1500)
    assert first == paired_bootstrap(nats, num_bytes, other, num_bytes, seed=3, draws=1500)
    assert first[0] == pytest.approx(nats.sum() / other.sum())
    order = generator.permutation(9)
    _, low, high = paired_bootstrap(nats, num_bytes, other[order], num_bytes[order], seed=3, draws=1500)
    assert high - low > 1.3 * (first[2] - first[1])  # wrong pairs: the documents' own spread no longer cancels


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 2], [1, 2], [1], [1]), "same documents"),
        (([1], [1], [1], [1]), "cannot be resampled"),
        (([1, 2], [1, 0], [1, 2], [1, 2]), "positive"),
        (([1, math.nan], [1, 1], [1, 2], [1, 2]), "nats_a of document 1"),
    ],
)
def test_bootstrap_refuses_what_it_cannot_pair(columns, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(*columns)
