"""Segmentation: lossless for any string, cuts where a reader would, linear time."""

import re
import time
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmbase.text import RULES, choose_rule, is_open, learn_parameters, segment
from lmbase.text.segmentation import SEGMENTERS

pytestmark = pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")
CONCRETE = list(SEGMENTERS)

# Any code point, lone surrogates included, mixed with strings that the rules treat specially.
_special = (
    "Mr.|No.|e.g.|U.S.|J.|I.|1.|3.14|1,000|10:30|...|…|.|,|!|?|;|:|\"|'|”|’|“|‘|)|(|»|«|。|，|：|」|「|．|１|？|word|Word|你好"
    '|\ud800|\x00|😀|e\u0301|\u200d|ـ|שלום|؟|\n|\r\n|\n\n| |  |\t|\u00a0|\u3000|\u2028|\x85|\x1c|。"|，"|. . .|).|."| »'
    "|[1]|🎉|\u200e|z. B.|am 1.|März|The|道|।|།|~~|—"
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


def test_unknown_rules_are_refused() -> None:
    for call in (segment, is_open, lambda text, rule: learn_parameters(rule, [text])):
        with pytest.raises(ValueError, match=rf"rule='clause' .*{', '.join(SEGMENTERS)}, auto"):
            call("x", "clause")


class Words:
    """Cuts after every word."""

    always_open = True

    def learn(self, texts: Iterable[str]) -> dict:
        return {"texts": len(list(texts))}

    def cuts(self, text: str, parameters: dict | None) -> Iterable[int]:
        return (match.end() for match in re.finditer(r"\S+", text))


def test_a_new_rule_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEGMENTERS, "word", Words())
    assert segment(" two  words ", "word") == [" two", "  words", " "]
    assert is_open("two", "word")
    assert learn_parameters("word", ["a", "b"]) == {"texts": 2}
    assert list(RULES)[-2:] == ["word", "auto"]
    with pytest.raises(ValueError, match="word, auto"):
        segment("x", "verse")


def test_what_a_rule_learns() -> None:
    learned = {rule: learn_parameters(rule, ["He left. She stayed."]) for rule in RULES}
    assert learned["sentence"] is not None
    assert learned["punctuation"] is learned["line"] is learned["auto"] is None


UNITS = 'a|word | |\n| \n|.|. |,|)|"|".|…|...a|。|，"|Mr. |1. |I. |).|你好'.split("|")  # noqa: SIM905
UNITS += [".[1]", ".🎉", ".\u200e", "z. B. ", "am 1. M ", "。”说", "？", "[1]", "a.The"]


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
