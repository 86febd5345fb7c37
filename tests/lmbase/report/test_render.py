"""Templates: what is escaped, and fences that no text ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from lmbase.report.render import fence, one_line, render


def test_html_is_escaped_and_control_characters_are_shown():
    assert "<title>&lt;b&gt; ␀ &amp;</title>" in render("page.html", title="<b> \x00 &")


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match="title"):
        render("page.html")


@given(st.text(alphabet="`a\n"))
def test_no_text_ends_its_fence(text):
    opening, *inside, closing = fence(text).split("\n")
    assert opening == closing
    assert opening not in inside


def test_one_line():
    assert one_line(" a\n\tb ") == "a b"
