"""Where texts are cut: at the best border in the window, with white space behind the cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm_data.borders import last_border


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.\n\nThree. Four is cut here", "One. Two."),
        ("One. “Two.” Three\nis cut here", "One. “Two.”"),
        ("一。二。三三三三", "一。二。"),
        ("one line\nanother line", "one line"),
        ("some words that", "some words"),
        ("nothingtocutat", "nothingtocutat"),
        ("Value 3.5 of it", "Value 3.5 of"),
    ],
)
def test_the_best_border(text: str, first: str) -> None:
    assert text[: last_border(text, len(text), 100)] == first


def test_a_border_stands_in_the_window() -> None:
    text = "One.\n\n" + "word " * 20
    assert last_border(text, 49, 10) == 45
    assert last_border(text, 50, 50) == 4


@given(st.text(st.sampled_from("ab. \n。\r\t”"), max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_a_border_is_never_behind_the_limit(text: str, limit: int, window: int) -> None:
    limit = min(limit, len(text))
    assert max(0, limit - window) <= last_border(text, limit, window) <= limit
