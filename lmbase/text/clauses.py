"""Rule `punctuation`: clauses. Also the characters and the pattern that the other rules share with it."""

import re
from collections.abc import Iterable, Iterator

RUN = 32  # longest run of marks and closers read as one: keeps a megabyte of ")))))" linear

NEWLINES = "\n\r\x0b\x0c\x85\u2028\u2029"
QUOTES = '"”'  # marks, but only where they close
ENDS = ".…!?؟۔।॥።။។։‽⁇⁈⁉"  # end a sentence where white space follows; an ellipsis by itself never cuts
MARKS = ENDS + ",;:،؛\u037e"  # end a clause where white space follows (037e: the Greek question mark)
OPENERS = "([{“‘«‹„‚「『（【《〈〔［｛"
EITHER = "'*_`"  # open or close; right after an ASCII mark and before white space they close
CLOSERS = EITHER + "’)]}»›」』）】》〉〕］｝＂"  # stay with the mark before them
WIDE_ENDS = "。！？｡．﹒﹖﹗"  # full-width marks cut whatever follows: Chinese and Japanese write no spaces
WIDE_MARKS = WIDE_ENDS + "、，；：､﹐﹑﹔﹕"

# No cut after these, in lower case, capitalised or in capitals: words that hardly ever end a sentence.
_ABBREVIATIONS = """
    mr mrs ms dr prof st sr jr hon rev fr gen col maj capt cmdr lt sgt cpl pvt gov sen rep supt messrs mme mlle esq
    etc vs viz cf approx dept est inc ltd co corp bros univ assn ave blvd mt ft lbs oz chap mss
    jan feb apr aug sept oct nov dec usw bzw nr hr evtl ggf inkl sra srta uds núm pág
    """.split()  # noqa: SIM905
ABBREVIATIONS = frozenset(form for a in _ABBREVIATIONS for form in (a, a.capitalize(), a.upper())) | {"al"}
# No cut after these in front of a digit: "No. 5", but "No. I will not."
_NUMBERED = ("no", "nos", "p", "pp", "vol", "ch", "sec", "fig", "eq", "art", "mar", "v", "op")
NUMBERED = frozenset(form for a in _NUMBERED for form in (a, a.capitalize()))

_WORD_BEFORE = re.compile(r"\w+(?:\.\w+)*\Z")
_DOTTED = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+")  # U.S, e.g, a.m, Ph.D
ENUMERATOR = re.compile(r"\s*+(?:\d{1,3}|[^\W\d_]|[IVXLC]+)")  # "1.", "a.", "IV." that open a piece
NUMBER_NEXT = re.compile(r"\s+\d")
_INITIAL_NEXT = re.compile(r"\s[A-Z]\.")
_INITIAL_BEFORE = re.compile(r"\b[A-Z]\.\s")


def _clause_pattern() -> re.Pattern[str]:
    """A pattern whose matches end where a clause may end, and never in the middle of a run of marks.

    It begins with one character class, so that `re` skips ordinary text at full speed. `lastgroup` tells what needs a
    second look: "period" (periods and closers only: abbreviation, ellipsis?), "line" (a line break), None (cut here).
    """
    m, q, w, c, e = (re.escape(s) for s in (MARKS, QUOTES, WIDE_MARKS, CLOSERS, EITHER))
    apart = re.escape(MARKS + QUOTES + CLOSERS + WIDE_MARKS + OPENERS)
    return re.compile(
        rf"""[{m}{q}{c}{w}{NEWLINES}](?:
          (?<=[{NEWLINES}]) \s*+ (?P<line>)
        | (?<=[.…]) [.…]{{0,{RUN}}}+ [{c}]{{0,{RUN}}}+ (?=\s|\Z) (?!\s[»›](?:\s|\Z)) (?P<period>)
          # a mark; a quote that stands right behind a word; closers up to a mark or quote
        | (?: (?<=[{m}]) | (?<=[^\s{apart}][{q}]) | (?<=[{c}]) [{c}]{{0,{RUN}}}+ [{m}{q}] )
          [{m}{q}{c}]{{0,{RUN}}}+ (?: [“‘«] | \s[»›] )?+ (?=\s|\Z)  # last: „Ja.“ and « Oui. »
          # full-width marks; quotes that could also open close only at the end of a sentence or before white space
        | (?: (?<=[{w}]) | (?<=[{m}{q}{c}]) [{m}{q}{c}]{{0,{RUN}}}+ [{w}] ) (?! (?<=\d[．，：]) \d )
          (?: [{w}!?…] | (?![{e}]) [”{c}] | ["{e}] (?: (?<=[{WIDE_ENDS}].) | (?=\s|\Z) ) )*+
        )""",
        re.VERBOSE,
    )


CLAUSE = _clause_pattern()
AFTER_MARKS = CLOSERS + QUOTES + "“‘« \xa0\u202f"  # what the pattern takes in behind the last mark
ALL_ENDS = ENDS + WIDE_ENDS


def before_white_space(text: str, start: int, end: int) -> int:
    """Step back from `end` over white space, not beyond `start`."""
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


def is_ellipsis(text: str, period: int, end: int) -> bool:
    """Part of "...", "…" or ". . ."? The marks at text[period:end] hold nothing but periods and closers."""
    return (
        text[period] == "…"
        or text[period + 1 : period + 2] in (".", "…")
        or text[end + 1 : end + 2] == "."
        or (period > 0 and text[period - 1].isspace())
    )


def _period_cuts(text: str, start: int, period: int, end: int) -> bool:
    """Does the period at text[period] end a clause, in a piece that began at `start`?"""
    if is_ellipsis(text, period, end):
        return False
    match = _WORD_BEFORE.search(text, max(start, period - 12), period)
    if match is None:
        return period > start  # after a bracket, a sign, an emoji
    word = match.group()
    if word in ABBREVIATIONS or _DOTTED.fullmatch(word) or ENUMERATOR.fullmatch(text, start, period):
        return False
    if len(word) == 1 and word.isupper():
        # "It is I." ends a sentence: I is an initial only beside another one
        return word == "I" and not (
            _INITIAL_NEXT.match(text, end) or _INITIAL_BEFORE.match(text, max(start, period - 4), period)
        )
    return not (word in NUMBERED and NUMBER_NEXT.match(text, end))


class ClauseSegmenter:
    """Cuts after `, . ! ? ; :`, after a closing double quote, and before a line break.

    Closing quotes and brackets stay with what they close. ASCII marks cut only where white space follows (3.14, 1,000,
    10:30, example.com stay whole), full-width marks everywhere. Ellipses, initials (J. K. Rowling), abbreviations
    (Mr., e.g., etc.) and the number of a list item (1.) do not cut.
    """

    always_open = False

    def learn(self, texts: Iterable[str]) -> None:
        """Nothing is learned: the rule is the same for every corpus."""

    def cuts(self, text: str, parameters: dict | None) -> Iterator[int]:
        start = 0
        for match in CLAUSE.finditer(text):
            kind, end = match.lastgroup, match.end()
            if kind == "period":
                if not _period_cuts(text, start, match.start(), end):
                    continue
            elif kind == "line":
                end = before_white_space(text, start, match.start())
            if end > start:
                yield end
                start = end
