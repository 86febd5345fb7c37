"""Segmentation: lossless for any string, cuts where a reader would, linear time."""

import json
import re
import time
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmbase.text import MAX_LINE, RULES, choose_rule, is_open, segment, train_punkt
from lmbase.text import punkt as punkt_module

pytestmark = pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")
CONCRETE = [rule for rule in RULES if rule != "auto"]

# Any code point, lone surrogates included, mixed with strings that the rules treat specially.
_special = (
    "Mr.|No.|e.g.|U.S.|J.|I.|1.|3.14|1,000|10:30|...|…|.|,|!|?|;|:|\"|'|”|’|“|‘|)|(|»|«|。|，|：|」|「|．|１|？|word|Word|你好"
    '|\ud800|\x00|😀|e\u0301|\u200d|ـ|שלום|؟|\n|\r\n|\n\n| |  |\t|\u00a0|\u3000|\u2028|\x85|\x1c|。"|，"|. . .|).|."| »'
)
SPECIAL = _special.split("|")
any_text = st.text(st.characters(exclude_categories=[]), max_size=30)
free_text = st.lists(st.sampled_from(SPECIAL) | any_text, max_size=25).map("".join)


def published_rule(text: str) -> list[str]:
    """The rule as published: cut after every mark; what follows the last one, and pieces past the 64th, are dropped."""
    return re.findall(r"""[^,.!?;:"\n，。！？；：]*[,.!?;:"\n，。！？；：]""", text)[:64]


def check_lossless(cut, text: str) -> None:
    pieces = cut(text)
    assert "".join(pieces) == text
    assert all(pieces)


def check_numbers_whole(cut, text: str, *numbers: str) -> None:
    assert all(any(number in piece for piece in cut(text)) for number in numbers)


@pytest.mark.parametrize("rule", RULES)
@given(free_text)
@settings(max_examples=100, deadline=None)
@example("")
@example("   ")
@example("\r\n\r\n")
@example(" \n . , ! \x00 \udfff")
def test_lossless_and_white_space_opens(rule: str, text: str) -> None:
    check_lossless(lambda t: segment(t, rule), text)
    pieces = segment(text, rule)
    assert all(not piece[-1].isspace() for piece in pieces[:-1])
    if text.strip() and text != text.rstrip():
        assert pieces[-1] == text[len(text.rstrip()) :]


def test_published_fault_5_text_lost_and_numbers_cut() -> None:
    """Published: the text behind the last mark, and pieces past 64, were lost; 3.14 was cut in two."""
    tail, many, number = "He left. She stayed", "Go on. " * 100, "Pi is 3.14, not 1,000 at 10:30."
    for text in (tail, many):
        with pytest.raises(AssertionError):
            check_lossless(published_rule, text)
        for rule in RULES:
            check_lossless(lambda t, rule=rule: segment(t, rule), text)
    with pytest.raises(AssertionError):
        check_numbers_whole(published_rule, number, "3.14")
    for rule in RULES:
        check_numbers_whole(lambda t, rule=rule: segment(t, rule), number, "3.14", "1,000", "10:30")


def cut(marked: str, rule: str) -> None:
    """`marked` is the text with | where it must be cut."""
    assert segment(marked.replace("|", ""), rule) == marked.split("|")


@pytest.mark.parametrize(
    "marked",
    [
        "Well,| he said:| go;| now!| Why?| Because.",
        "It costs 3.14,| or 1,000 at 10:30.| Don't.",
        "See example.com or setup.py.| Then https://a.b/c?d=e,f;g too.",
        "Wait... what?| No… yes . . . no.",
        "J. K. Rowling met Mr. Smith of the U.S. Army,| Ph.D.,| e.g. in St. Ives etc. and left.",
        "So do I.| Then I. K. Brunel came.| Room No. 5?| No.| I am out.",
        "“Yes!”| he said.| ‘No.’| (Really.)| [Truly.]| End.",
        '"Yes!"| he said.| "No,"| she "agreed"| at last.',
        "The “Wild”| was “near”,| he said",
        "„Ja.“| Dann ging er.| « Oui. »| Puis.",
        "你好，|世界。|他说：|“你好。”|然后走了！？|「好。」|对",
        '他说：|"你好。"|然后走了。',
        "价格３．１４元，|１０：３０开始。",
        "مرحبا،| كيف حالك؟| بخير.",
        "नमस्ते।| कैसे हो?",
        "Title|\n\nOne|\r\nTwo.|\n\n  Three|\n",
        "1. Buy milk.|\n2. Sell it.|\nIV. Rest",
        "Hi 😀!| Cafe\u0301,| \ud800 \x00.| ok",
        "etc.,| and so on.",
        "The Dr.|\nSmith",
    ],
)
def test_punctuation(marked: str) -> None:
    cut(marked, "punctuation")


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
    cut(marked, "sentence")


def test_line() -> None:
    cut("def f(x):|\n    return x|\n\n\n\tpass|\r\nend|\n", "line")
    words = "word " * 200
    pieces = segment("    " + words + "\n" + "x" * 1000, "line")
    assert all(len(piece.lstrip()) <= MAX_LINE for piece in pieces)
    assert all(piece.split() == ["word"] * len(piece.split()) for piece in pieces if "x" not in piece)
    assert [len(piece.strip()) for piece in pieces if "x" in piece] == [256, 256, 256, 232]


@pytest.mark.parametrize("rule", CONCRETE)
@given(free_text)
@settings(max_examples=100, deadline=None)
@example('He said. 。"a".')
@example("。)”.")
def test_a_closed_piece_stays_as_it_is(rule: str, text: str) -> None:
    pieces = segment(text, rule)
    if pieces and not is_open(pieces[-1], rule):
        assert segment(text + " Next", rule)[: len(pieces)] == pieces


@pytest.mark.parametrize(
    ("piece", "punctuation", "sentence"),
    [
        ("He said", True, True),
        ("He said,", False, True),
        (" He left.", False, False),
        (" “He left.”", False, False),
        ("你好。", False, False),
        (" said Mr.", True, True),
        ("Wait...", True, True),
        ("3.", True, True),
        ("\n", True, True),
        ("", True, True),
    ],
)
def test_is_open(piece: str, punctuation: bool, sentence: bool) -> None:
    assert is_open(piece, "punctuation") is punctuation
    assert is_open(piece, "sentence") is sentence
    assert is_open(piece, "line")


PROSE = """It was a dark night, and the rain fell in torrents. The street was empty. Nobody came; nobody went.

“Who is there?” he said.

“Nobody.”
"""
WRAPPED = """The quick brown fox jumps over the lazy dog, and then it goes home
to sleep until the sun comes up again over the hills and valleys
that lie between here and the sea. Nobody had ever seen it there,
which is strange.
"""
CODE = "def area(r):\n    if r < 0:\n        return None\n    return 3.14 * r ** 2\n"
VERSE = """Tiger, tiger, burning bright
In the forests of the night,
What immortal hand or eye
Could frame thy fearful symmetry?
"""
TABLE = "name,age,city\nAnn,31,Paris\nBob,27,Oslo\n"
LOG = "2024-05-01 12:00:01 INFO Server started.\n2024-05-01 12:00:02 WARN Disk is full.\n"


@pytest.mark.parametrize(
    "text", [PROSE, WRAPPED, "Hello there. How are you?", "Call 555-1234.", "", "你好。\n再见。\n", "x"]
)
def test_auto_reads_prose_as_clauses(text: str) -> None:
    assert choose_rule(text) == "punctuation"
    assert segment(text) == segment(text, "punctuation")


@pytest.mark.parametrize("text", [CODE, VERSE, TABLE, LOG, '{"a":[1,2],"b":{"c":3}},' * 100])
def test_auto_reads_code_tables_logs_and_verse_as_lines(text: str) -> None:
    assert choose_rule(text) == "line"
    assert segment(text, "auto") == segment(text, "line")


TRAINING = ["The Xyzq. Smith came. The dog ran. A Xyzq. Jones left. We saw Xyzq. Brown. It was late. They left."] * 20


def test_trained_punkt_survives_json() -> None:
    text = "Then Xyzq. White sat down. He slept."
    assert segment(text, "sentence")[0] == "Then Xyzq."
    learned = json.loads(json.dumps(train_punkt(TRAINING)))
    assert segment(text, "sentence", punkt=learned) == ["Then Xyzq. White sat down.", " He slept."]
    assert is_open("Then Xyzq.", "sentence", punkt=learned)


def test_punkt_shortcut_answers_as_punkt_does() -> None:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    parameters = punkt_module._from_json(train_punkt(TRAINING))
    model, whole = punkt_module.PunktModel(parameters), PunktSentenceTokenizer(parameters)
    for word in ("came.", "Xyzq.", "I.", "3.", "well...", "non-Xyzq.", "é.", "Straße."):
        for following in ("The", "the", "Smith", "5", "dog", "“"):
            assert model.sentence_ends(word, following) == whole.text_contains_sentbreak(f"{word} {following}")


@pytest.mark.parametrize("texts", [[], [""], ["\ud800 \x00"], ["x" * 100_000 + "."]])
def test_training_punkt_on_next_to_nothing(texts: list[str]) -> None:
    assert segment("He left. She stayed.", "sentence", punkt=train_punkt(texts)) == ["He left.", " She stayed."]


def test_missing_model_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(language: str) -> None:
        raise LookupError(language)

    monkeypatch.setattr("nltk.tokenize.punkt.PunktTokenizer", absent)
    punkt_module._default_model.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            segment("Mr. Smith left. He ran.", "sentence")
    assert len([w for w in caught if "found no Punkt model" in str(w.message)]) == 1
    punkt_module._default_model.cache_clear()


def test_users_mistakes() -> None:
    with pytest.raises(ValueError, match=r"'clause'.*punctuation, sentence, line, auto"):
        segment("x", "clause")
    for wrong in ({}, {"abbrev_types": 3, "collocations": [], "ortho_context": {}, "sent_starters": []}):
        with pytest.raises(ValueError, match="no Punkt parameters"):
            segment("He left. She", "sentence", punkt=wrong)


UNITS = 'a|word | |\n| \n|.|. |,|)|"|".|…|...a|。|，"|Mr. |1. |I. |).|你好'.split("|")  # noqa: SIM905


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("unit", UNITS)
def test_linear_time(rule: str, unit: str) -> None:
    text = unit * (200_000 // len(unit)) + "a"
    started = time.process_time()
    check_lossless(lambda t: segment(t, rule), text)
    assert time.process_time() - started < 5  # quadratic time would be twenty seconds and more


@pytest.mark.parametrize("rule", RULES)
def test_ten_megabytes_in_one_line(rule: str) -> None:
    text = "word and word, then 3.14 more " * 350_000
    started = time.process_time()
    pieces = segment(text, rule)
    assert time.process_time() - started < 20
    assert sum(map(len, pieces)) == len(text)
