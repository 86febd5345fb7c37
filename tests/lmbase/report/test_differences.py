"""Differences of two texts, word by word."""

from hypothesis import given
from hypothesis import strategies as st

from lmbase.report.differences import mark_differences, split_words


def test_differences_are_marked_word_by_word():
    before, after = mark_differences("The old cat sat.", "The cat sat down.")
    assert before == [("The", False), (" old", True), (" cat sat", False), (".", False)]
    assert after == [("The", False), (" cat sat", False), (" down", True), (".", False)]
    assert mark_differences("它是字符串", "它是整数")[0][-1] == ("字符串", True)


@given(st.text(max_size=60), st.text(max_size=60))
def test_marking_loses_no_character_and_equal_texts_have_no_marks(text, other):
    assert "".join(split_words(text)) == text
    before, after = mark_differences(text, other)
    assert "".join(part for part, _ in before) == text
    assert "".join(part for part, _ in after) == other
    assert any(marked for _, marked in before + after) == (text != other)
