"""Cuts found while a text arrives are those of the whole text."""

import numpy as np
import pytest
from cut_texts import LONG, PARAMETERS, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmbase.text import places
from lmbase.text.cut_stream import CutStream
from lmbase.text.learned import LearnedCuts


def cuts(text: str, ends: list[int], parameters: dict | None) -> tuple[list[int], list[int]]:
    """As the tokens arrive that end there, and of the whole."""
    learned = LearnedCuts.of(parameters)
    stream, found, before = CutStream(learned), [], 0
    for end in ends:
        stream.read(text[before:end])
        found += [end] * stream.cuts_here()
        before = end
    return [cut for cut in found if cut < len(text)], list(learned.cuts(text, np.array(ends, np.int64)))


@given(texts, st.integers(1, 9), st.sampled_from([PARAMETERS, None]))
@settings(max_examples=80, deadline=None)
@example(LONG, 3, PARAMETERS)
@example(LONG, 4, None)
@example("-" + LONG[:3000], 5, PARAMETERS)
@example("\n,a" * 900, 3, PARAMETERS)
@example("a" * 3000 + " b" + ",x" * 1100, 2, PARAMETERS)
def test_cuts_of_the_whole(text, step, parameters):
    found, expected = cuts(text, list(range(step, len(text) + 1, step)), parameters)
    assert found == expected


@pytest.mark.parametrize("step", [1, 4])
def test_a_new_slab_counts_anew(monkeypatch, step):
    monkeypatch.setattr(places, "SLAB", 2048)
    text = ("(a" * 700 + LONG[:4000]) * 2
    found, expected = cuts(text, list(range(step, len(text), step)), PARAMETERS)
    assert len(expected) > 100
    assert found == expected
