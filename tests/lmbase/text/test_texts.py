"""One text is one text, and what is none is told."""

from types import SimpleNamespace

import pytest
from transformers import BatchEncoding

from lmbase.text.texts import text_list


def test_a_text_alone_is_a_list_of_one():
    assert text_list("One. Two.") == text_list(["One. Two."]) == text_list(iter(["One. Two."])) == ["One. Two."]
    assert text_list([]) == []


@pytest.mark.parametrize("given", [None, 3, b"bytes", ["a", None], ["a", b"b"], [["a"]]], ids=str)
def test_what_is_no_text_is_named_with_its_number(given):
    with pytest.raises(ValueError, match=r"contexts: number [01] is .* give a text or a list of texts"):
        text_list(given, "contexts")


def test_a_lone_surrogate_is_told():
    with pytest.raises(ValueError, match="surrogate"):
        text_list(["fine", "not \ud800"])


def test_bytes_are_told_as_such():
    with pytest.raises(ValueError, match="number 0 is b'abc', which is a bytes"):
        text_list(b"abc")  # type: ignore[arg-type]


def test_what_has_names_and_values_is_no_list_of_its_names():
    for given in ({"text": ["a"]}, BatchEncoding({"input_ids": [[1]]}), SimpleNamespace(columns=["text"])):
        with pytest.raises(ValueError, match="has names and values"):
            text_list(given)
