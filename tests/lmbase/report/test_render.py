"""Templates: what is escaped, and what is missing."""

import pytest
from jinja2 import UndefinedError

from lmbase.report.render import render


def test_html_is_escaped_and_control_characters_are_shown():
    assert "<title>&lt;b&gt; ␀ &amp;</title>" in render("page.html", title="<b> \x00 &")


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match="title"):
        render("page.html")
