"""What is planted in the costs is found: a rule that cuts where a fresh state was worth most."""

from itertools import pairwise

import numpy as np
import pytest
from planted_cuts import LONGEST, PROCESSOR, WORDS, Planted, words

from lmbase.text.places import TABLE
from sllm.cuts.fitting import Text, check_enough, fit, gains, ridge, token_units
from sllm.cuts.optimum import cheapest, price

STORY = words(1500)
RNG = np.random.default_rng(1)


def test_a_planted_mark_is_found():
    text = Text.of(STORY, PROCESSOR.codec)
    learned = fit([text], [Planted(text)], PROCESSOR.tokenizer, 17.0, LONGEST)
    held_out = words(600, seed=1)
    other = Text.of(held_out, PROCESSOR.codec)
    starts = other.learned_starts(learned, LONGEST)
    pieces = [held_out[a:b] for a, b in pairwise([*starts, len(held_out)])]
    assert np.mean(Planted(other).good[starts]) > 0.6
    assert np.mean([piece.endswith((";", "; ")) for piece in pieces]) > 0.6 > 2 * np.mean([w[-1] == ";" for w in WORDS])
    assert 12 < len(held_out) / len(pieces) < 24


def test_the_optimum_finds_it_too():
    text = Text.of(STORY[:500], PROCESSOR.codec)
    costs = Planted(text)
    places = text.starts([i for i, c in enumerate(STORY[:500]) if c == " "], LONGEST)
    found = cheapest(costs, places, 0.1)
    assert np.mean(costs.good[found]) > 0.8  # a piece of more than LONGEST has to end elsewhere
    assert price(costs, found) < price(costs, text.starts(range(0, 500, 16), LONGEST))


def test_gains_are_differences_of_costs():
    text = Text.of("ab gh; ab ab ab ab", PROCESSOR.codec)
    row, age, gain = gains(Planted(text), [0, 2, 6, 9])
    by_pair = {(int(r), int(a)): g for r, a, g in zip(row, age, gain, strict=True)}
    assert by_pair[2, 4] == pytest.approx(8 * 0.5)  # behind ";": from 1 to 0.5 a token
    assert by_pair[1, 2] == pytest.approx(-8 * 0.5)  # the text's beginning was good, this place is not


def test_too_little_text_is_refused():
    text = Text.of("ab cd", PROCESSOR.codec)
    with pytest.raises(ValueError, match=r"too few to learn from.*--rule auto"):
        check_enough([text], PROCESSOR.codec)


def test_ridge_finds_weights():
    features = RNG.integers(0, 50, (3, 4000))
    weights = np.zeros(TABLE)
    weights[:50] = RNG.normal(size=50)
    wanted = weights[features].sum(0)
    found = ridge(features, wanted, penalty=0.1)
    np.testing.assert_allclose(found[features].sum(0), wanted, atol=0.05)


def test_sizes_of_characters_are_those_of_the_tokenizer():
    text = Text.of("ab 12, é" * 50, PROCESSOR.codec)
    assert token_units([text], PROCESSOR.codec) == [64, 64, 64, 64, 128, 192, 256]  # tokens are bytes
    np.testing.assert_array_equal(text.tokens_at(np.array([0, 7, 8])), [0, 7, 9])
