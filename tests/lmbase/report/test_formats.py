"""Numbers as people read them, and text that a page can hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbase.report.formats import clean, number, short_count, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(0.012345), "0.01235"),
        (number(12.345), "12.35"),
        (number(652.78), "652.8"),
        (number(12345.6), "12,346"),
        (number(12), "12"),
        (number(0.0), "0"),
        (number(1.23e-6), "1.23e-06"),
        (number(-3.605), "-3.605"),
        (number(float("nan")), "nan"),
        (number(float("-inf")), "-inf"),
        (short_count(950), "950"),
        (short_count(999_999), "1.00M"),
        (short_count(214_000_000), "214M"),
        (short_count(99_960_000), "100M"),
        (size(1_930_000), "1.93 MB"),
        (size(12), "12 B"),
    ],
)
def test_numbers_are_short_and_keep_their_digits(text, expected):
    assert text == expected


@given(st.text(alphabet=st.characters(codec=None, categories=None), max_size=40))
def test_clean_text_can_be_written_in_utf8(text):
    shown = clean(text)
    shown.encode("utf-8")
    assert len(shown) == len(text)
    assert not any(ord(character) < 32 and character not in "\n\t" for character in shown)
