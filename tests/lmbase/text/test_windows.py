"""Windows score every unit once, with half a window of text before it."""

from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmbase.text.windows import Window, sentence_windows, training_windows, windows

sizes = st.integers(1, 20)


@given(st.integers(0, 200), sizes)
def test_every_unit_is_scored_once_in_a_window_that_fits(length, size):
    found = windows(length, size)
    assert [u for w in found for u in range(w.scored, w.stop)] == list(range(length))
    assert all(0 <= w.start <= w.scored and w.stop - w.start <= size for w in found)


@given(st.integers(0, 200), st.integers(1, 10).map(lambda half: 2 * half))
def test_windows_overlap_by_half(length, size):
    found = windows(length, size)
    assert found[0].scored == 0
    assert all(w.scored - w.start >= size // 2 for w in found[1:])
    assert all(w.stop - w.start == size for w in found[:-1])


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 10).map(lambda half: 2 * half))
def test_context_is_read_and_never_scored(context, length, size):
    found = windows(context + length, size, context)
    assert [u for w in found for u in range(w.scored, w.stop)] == list(range(context, context + length))
    assert all(0 <= w.start <= w.scored and w.stop - w.start <= size for w in found)
    assert all(w.scored - w.start >= min(w.scored, size // 2) for w in found)


def test_a_short_text_is_one_window():
    assert len(windows(8, 8)) == len(windows(0, 8)) == 1
    assert len(windows(9, 8)) == 2


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match="window of 0"):
        windows(5, 0)


@given(st.integers(0, 200), sizes)
def test_training_windows_cover_every_unit_once(length, size):
    assert [u for start, stop in training_windows(length, size) for u in range(start, stop)] == list(range(length))
    assert all(0 < stop - start <= size for start, stop in training_windows(length, size))


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 40), st.integers(1, 12))
@example([12, 3], 10, 24)
def test_F1_no_sentence_sees_an_earlier_one_that_the_token_windows_do_not(lengths, size, max_sentences):
    """Of whatever length sentences are: a sentence's context begins no earlier than the token window that scores its
    last token, and no token of it would see more in the token window that scores that token; one that is longer than
    that window reaches back is scored in parts, each of which begins no earlier than its token window."""
    before = list(accumulate(lengths, initial=0))
    tokens = windows(before[-1], size)
    found = sentence_windows(before, tokens, max_sentences)
    assert [s for w in found for s in range(w.scored, w.stop)] == list(range(len(lengths)))
    for w in found:
        assert w.stop - w.start <= max_sentences
        for s in range(w.scored, w.stop):
            scorers = [t for t in tokens if t.scored < before[s + 1] and before[s] < t.stop]
            assert bool(w.parts) == any(t.start > before[s] for t in scorers)
            assert w.parts or all(before[w.start] >= t.start for t in scorers)
            if w.parts:
                scored = [before[s] + at for part in w.parts for at in range(part.scored, part.stop)]
                assert scored == list(range(before[s], before[s + 1]))
            for part in w.parts:
                seen = [t for t in scorers if t.scored <= before[s] + part.stop - 1 < t.stop]
                assert before[s] + part.start >= seen[0].start


def test_the_end_of_an_empty_text_is_scored_with_equal_context_too():
    assert sentence_windows([0], windows(0, 10), 24) == windows(0, 24) == [Window(0, 0, 0)]
