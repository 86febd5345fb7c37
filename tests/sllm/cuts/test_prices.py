"""Every rule has its price, beside rivals with as many pieces."""

import pytest
from planted_cuts import LONGEST, PROCESSOR, Planted, words

from sllm.cuts.fitting import Text, fit
from sllm.cuts.prices import RULES, Prices


@pytest.fixture(scope="module")
def prices():
    train = Text.of(words(1200), PROCESSOR.codec)
    learned = fit([train], [Planted(train)], PROCESSOR.tokenizer, 17.0, LONGEST)
    texts = [Text.of(words(700, seed), PROCESSOR.codec) for seed in (1, 2)]
    return Prices([*texts, Text.of("", PROCESSOR.codec)], [*map(Planted, texts), None], learned, LONGEST)


@pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")
def test_each_rule_has_a_row_and_rivals_as_many_pieces(prices):
    rows = {row["rule"]: row for row in prices.rows()}
    assert list(rows) == [*RULES, "learned"]
    for rule, row in rows.items():
        assert 1 <= row["tokens_per_piece"] <= LONGEST
        assert row.get("optimum_over_rule", 1) <= 1.001, rule
    punctuation, learned = rows["punctuation"], rows["learned"]  # ";" is a mark: no rule could do better
    assert punctuation["fixed_over_rule"] > 1.3
    assert punctuation["learned_over_rule"] < 1.3
    assert learned["learned_over_rule"] == pytest.approx(1, abs=0.02)
    assert learned["fixed_over_rule"] > 1.03


def test_no_text_has_no_price(prices):
    with pytest.raises(ValueError, match="no text to price"):
        Prices([Text.of("", PROCESSOR.codec)], [None], prices.learned, LONGEST)


def test_the_optimum_of_a_text_without_places_is_the_cap(prices):
    text = Text.of("a" * 100, PROCESSOR.codec)
    (row, *_) = Prices([text], [Planted(text)], prices.learned, LONGEST).rows()
    assert row["tokens_per_piece"] == pytest.approx(25)
