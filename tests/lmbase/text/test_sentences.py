"""Rule `sentence`: clauses joined to sentences, with and without a learned model."""

import json

import pytest
from cutting import assert_cut

from lmbase.text import is_open, learn_parameters, segment

pytestmark = pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")
TRAINING = ["The Xyzq. Smith came. The dog ran. A Xyzq. Jones left. We saw Xyzq. Brown. It was late. They left."] * 20


@pytest.mark.parametrize(
    "marked",
    [
        "He said, “Who is it?” and left.| “Go!”| Then: nothing; well.",
        "Mr. Smith of the U.S. Army met J. K. Rowling, e.g. in No. 5.| Then he left.",
        "Pi is 3.14.| In 1939 it was.",
        "A heading|\n\nThe text\nis wrapped.|  \n",
        "你好，世界。|他说：“你好。”|然后走了！？|「好。」|对",
        "1. Buy milk.|\n2. Sell it.",
    ],
)
def test_sentence_without_a_model(marked: str) -> None:
    assert_cut(marked, "sentence")


def test_trained_punkt_survives_json() -> None:
    text = "Then Xyzq. White sat down. He slept."
    assert segment(text, "sentence")[0] == "Then Xyzq."
    learned = json.loads(json.dumps(learn_parameters("sentence", TRAINING)))
    assert segment(text, "sentence", punkt=learned) == ["Then Xyzq. White sat down.", " He slept."]
    assert is_open("Then Xyzq.", "sentence", punkt=learned)


def test_broken_parameters_are_refused() -> None:
    for wrong in ({}, {"abbrev_types": 3, "collocations": [], "ortho_context": {}, "sent_starters": []}):
        with pytest.raises(ValueError, match="no Punkt parameters"):
            segment("He left. She", "sentence", punkt=wrong)


@pytest.mark.parametrize(
    "marked",
    [
        "“真的吗？”他问。|没有人回答。",
        "“走吧！”小王笑着说。|他说：“好。”|门关上了。|“好的。”|灯灭了。",
        "「本当ですか？」と彼は聞いた。|「はい。」|彼女はうなずいた。",
        "“क्या सच में?” उसने पूछा।| कोई नहीं बोला।",
        "«هل أنت جاد؟» سأل الرجل.| لم يجب أحد.",
        "“정말요?” 그가 물었다.| 끝.",
        "—¿Vienes? —preguntó Ana.| — Да, — сказал он.| — Ты? — спросил я.",
        "“Really?” Tom asked.| “Oh!” I said.| “Go!”| I went.",
        '"Really?" he asked.| "No."| He left.',
    ],
)
def test_C4_who_speaks_belongs_to_what_is_said(marked: str) -> None:
    assert_cut(marked, "sentence")


def test_an_ellipsis_ends_a_sentence_where_the_next_word_begins_one() -> None:
    assert_cut("The light went out...| Nobody moved.| Well... maybe.| I know… Paris.", "sentence")


def test_learned_abbreviations_join_the_known_ones() -> None:
    learned = learn_parameters("sentence", TRAINING)
    assert segment("Dr. White met Xyzq. Jones. He left.", "sentence", punkt=learned) == [
        "Dr. White met Xyzq. Jones.",
        " He left.",
    ]
