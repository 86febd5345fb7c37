"""Strings that end a text, whatever tokens spell them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_processor
from tokenizers_of_kinds import BYTE_FALLBACK, BYTE_LEVEL, make_tokenizer

from lmbase.text.codec import codec_of
from lmbase.text.stop_strings import StopStrings, check_stop_strings
from lmbase.text.streaming import written_text

BYTES = make_processor().tokenizer
LETTERS = st.text("ab.é日\N{OWL}", min_size=1)


def followed(tokenizer, ids, strings) -> StopStrings:
    stops = StopStrings(tokenizer, strings)
    for token in ids:
        if stops.add(token):
            break
    return stops


@given(LETTERS, st.lists(LETTERS, min_size=1, max_size=3))
def test_the_string_that_is_whole_first_is_found(text, strings):
    ends = [text.find(string) + len(string) for string in strings if string in text]
    first = min((text.find(s) for s in strings if s in text and text.find(s) + len(s) == min(ends)), default=None)
    assert followed(BYTES, codec_of(BYTES).encode(text), strings).found == first


@given(st.lists(st.integers(4, 259), max_size=30), st.data())
def test_bytes_that_are_no_text_hold_strings_too(ids, data):
    """What is found in ids is what stands in the text that they are shown as, broken characters among it."""
    text = written_text(BYTES, ids)
    start = data.draw(st.integers(0, len(text)))
    string = text[start : start + data.draw(st.integers(1, 3))] or "?"
    assert followed(BYTES, ids, [string]).found == (text.find(string) if string in text else None)


@given(LETTERS, st.lists(LETTERS, min_size=1, max_size=3))
def test_what_is_settled_is_never_taken_back(text, strings):
    ids = codec_of(BYTES).encode(text)
    stops, settled = StopStrings(BYTES, strings), 0
    for number, token in enumerate(ids, start=1):
        found = stops.add(token)
        assert settled <= stops.settled() <= number
        settled = stops.settled()
        if found:
            break
    cut = text if stops.found is None else text[: stops.found]
    shown = written_text(BYTES, ids[:settled])
    assert cut.startswith(shown)
    assert stops.found is None or shown + stops.rest() == cut
    if stops.found is None:  # only what may become a string is held back
        held = text[len(shown) :]
        assert held == "" or any(string.startswith(held) for string in strings)


@pytest.mark.parametrize("kind", [*BYTE_LEVEL, *BYTE_FALLBACK])
def test_every_kind_of_tokenizer_spells_them(kind):
    tokenizer = make_tokenizer(kind)
    text = "the old house, 日本 \N{OWL}s."
    ids = codec_of(tokenizer).encode(text)
    for start in range(len(text)):
        for end in range(start + 1, min(start + 6, len(text)) + 1):
            assert followed(tokenizer, ids, [text[start:end]]).found == text.find(text[start:end])


def test_a_character_that_the_prompt_begins_counts_as_new():
    ids = codec_of(BYTES).encode("日.")
    stops = StopStrings(BYTES, ["日"], ids[:2])
    assert [stops.add(token) for token in ids[2:3]] == [True]
    assert stops.found == 0


@pytest.mark.parametrize("wrong", ["", ["a", ""], 3, ["a", 3], [b"a"], ["\ud800"]])
def test_what_is_no_string_is_refused(wrong):
    with pytest.raises(ValueError, match=r"stop_strings|surrogate"):
        check_stop_strings(wrong)


def test_one_string_is_a_list_of_one():
    assert check_stop_strings("ab") == ["ab"]
    assert check_stop_strings(None) == check_stop_strings([]) == []
