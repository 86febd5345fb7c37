"""Places where rule `learned` may cut: behind marks, never in a number, told by the text so far."""

from itertools import pairwise

import numpy as np
import pytest

from lmbase.text.places import CLASSES, NUM_FEATURES, SLAB, TABLE, character_classes, places_of

UNITS = [1] * len(CLASSES)


def shown(text):
    offsets = [0, *(int(o) for part in places_of(text, UNITS) for o in part.offsets), len(text)]
    return "|".join(text[a:b] for a, b in pairwise(offsets))


@pytest.mark.parametrize(
    "cut",
    [
        "He left.|\n\nShe",
        "f(|x,|y)|",
        "3.14,| 1,000|\n2",
        "don't|",
        "你好。|再见|",
        "a,|b",
        "a.|\u0301b".replace("|\u0301", "\u0301"),
        "ก. ก\u0e31".replace(". ", ".| "),
        "  a ",
    ],
)
def test_where_a_cut_may_fall(cut):
    assert shown(cut.replace("|", "")).rstrip("|") == cut.rstrip("|")


def test_where_tokens_end_it_may_cut_behind_marks_and_white_space():
    ends = np.array([2, 3, 5, 6, 7, 9, 10])
    (places,) = places_of("He, 3.14\nb", UNITS, ends)  # He | , | _3 | . | 1 | 4\n | b
    assert places.offsets.tolist() == [3, 6, 9]


def test_what_is_known_of_a_place_is_what_stands_before_it():
    text = "Some words, a number 3.14 and (more); " * 4000  # more than a slab
    assert len(text) > 2 * SLAB
    whole, part = list(places_of(text, UNITS)), list(places_of(text[: SLAB + 999], UNITS))
    for a, b in zip(whole, part, strict=False):
        number = len(b.offsets)
        assert (a.offsets[:number] == b.offsets).all()
        assert (a.features[:, :number] == b.features).all()
        assert (a.sizes[:number] == b.sizes).all()
        assert a.features.shape[0] == NUM_FEATURES
        assert 0 <= a.features.min() <= a.features.max() < TABLE
    assert (np.concatenate([a.sizes for a in whole]) == np.concatenate([a.offsets for a in whole])).all()


def test_classes_of_characters():
    classes, sizes = character_classes("a1, é你😀")
    assert [CLASSES[c] for c in classes] == [
        ("letter", 1),
        ("digit", 1),
        ("mark", 1),
        ("space", 1),
        ("any", 2),
        ("any", 3),
        ("any", 4),
    ]
    assert sizes.tolist() == [1, 1, 1, 1, 2, 3, 4]
