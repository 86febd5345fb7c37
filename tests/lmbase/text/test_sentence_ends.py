"""Ends of sentences are those of the processor's cut, and known in time."""

from itertools import accumulate

import pytest
from tiny import make_processor

from lmbase.text import RULES
from lmbase.text.segmentation import AUTO, LEARNED
from lmbase.text.sentence_ends import SentenceEnds
from lmbase.text.tokenizers import encode_text

TEXT = 'He paid 3.14, then left. "No," she said;\nso it was. And then? Nothing, at all. ' * 3


def found(ids, window, **processor):
    ends = SentenceEnds(make_processor(cap=40, **processor), window)
    ends.read(ids)
    return ends.found


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in (AUTO, LEARNED)])
def test_a_window_of_tokens_tells_the_ends_that_the_whole_text_has(rule):
    processor = make_processor(rule, cap=40)
    ids = encode_text(processor.tokenizer, TEXT)
    whole, expected = 0, []
    for sentence in processor.split_ids(ids):
        whole += len(sentence)
        expected.append(whole)
    for window in (16, 21, 64):
        every = window // 2
        settled = [end for end in expected if end <= len(ids) // every * every - every]
        assert found(ids, window, rule=rule) == settled
        assert len(settled) > 2


@pytest.mark.parametrize(
    ("text", "rule"), [("He came, and left. She too. " * 4, "punctuation"), ("x = 1\ny = 2\n" * 9, "line")]
)
def test_the_rule_auto_is_the_one_for_what_has_been_read(text, rule):
    ids = encode_text(make_processor().tokenizer, text)
    assert found(ids, 24, rule=AUTO) == found(ids, 24, rule=rule) != []


@pytest.mark.parametrize("window", [1, 2, 3, 7, 16])
def test_an_end_is_told_by_the_tokens_of_its_window_and_stays(window):
    """Whatever follows: the ends told of a text that breaks off or goes on otherwise are the same."""
    ids = encode_text(make_processor().tokenizer, TEXT)[:80]
    whole = found(ids, window)
    for stop in range(len(ids)):
        for prefix in (ids[:stop], ids[:stop] + encode_text(make_processor().tokenizer, "1, 2, 3. 4!")):
            assert [end for end in found(prefix, window) if end <= stop - window] == [
                end for end in whole if end <= stop - window
            ]


@pytest.mark.parametrize("opening", ["ISBN 0-14-043908-3\n", "|a|b|\n|-|-|\n|1|2|\n"])
@pytest.mark.parametrize("window", [1, 2, 5, 16, 32])
def test_a_rule_that_is_chosen_anew_finds_no_end_late(opening, window):
    """By the opening alone `auto` takes lines, later clauses: those read long ago are no ends any more."""
    ids = encode_text(make_processor().tokenizer, opening + "He came, and left. She too, at last; so it was. " * 8)
    ends = SentenceEnds(make_processor(AUTO, cap=40), window)
    known: list[int] = []
    for at, i in enumerate(ids, start=1):
        ends.read([i])
        assert ends.found[: len(known)] == known
        assert all(end >= at - max(window - 1, 1) for end in ends.found[len(known) :])
        known = list(ends.found)
    assert len(known) > 8


def test_ids_that_are_no_text_are_taken():
    """A model may write any of them: special tokens, halves of characters, ids that no token has."""
    ids = encode_text(make_processor().tokenizer, "Yes. No")
    assert found([*ids[:4], 2, 2, 999, 0xC3 + 4, *ids[4:], 2, 2], 2)[0] == 4
    assert found([2] * 9, 4) == [1, 2, 3, 4, 5, 6]
    assert found([], 4) == []


def test_a_long_sentence_ends_at_its_cap():
    assert found([ord("a") + 4] * 100, 10) == [40, 80]


@pytest.mark.parametrize("window", [1, 16])
def test_ends_that_are_told_are_settled_at_once(window):
    processor = make_processor(LEARNED, cap=40)
    encoded = processor.encode(TEXT)
    stops = list(accumulate(encoded.sentence_lengths))[:-1]  # the text ends there, told or not
    assert len(stops) > 5
    for read in range(len(encoded.input_ids)):
        assert found(encoded.input_ids[:read], window, rule=LEARNED) == [stop for stop in stops if stop <= read]
