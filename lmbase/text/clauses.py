"""Rule `punctuation`: clauses. Also the characters and the pattern that the other rules share with it."""

import re
from collections.abc import Iterable, Iterator

from lmbase.text.periods import is_ellipsis, is_left_out_space, period_ends

RUN = 32  # longest run of marks and closers read as one: keeps a megabyte of ")))))" linear

NEWLINES = "\n\r\x0b\x0c\x85\u2028\u2029"
QUOTES = '"”'  # marks, but only where they close
# End a sentence where white space follows; an ellipsis by itself never ends a clause. 037e: the Greek question mark.
ENDS = ".…!?؟۔։\u037e‼‽⁇⁈⁉܀܁܂؞߹᙮᥄᥅꓿꘎꘏⸮"
MARKS = ENDS + ",;:،؛߸꓾꘍"  # end a clause where white space follows
OPENERS = "([{“‘«‹„‚「『（【《〈〔［｛"
EITHER = "'*_`~"  # open or close; right after an ASCII mark and before white space they close
CLOSERS = EITHER + "’)]}»›」』）】》〉〕］｝＂"  # stay with the mark before them
# These cut whatever follows: full-width marks (Chinese and Japanese write no spaces), and the marks of scripts in which
# they stand nowhere but at ends (dandas, Burmese, Khmer, Ethiopic, Mongolian, Sinhala, Tibetan, Thai, Javanese ...).
WIDE_ENDS = "。！？｡．﹒﹖﹗︒︕︖" + "।॥။።፧፨។៕៚᠃᠉෴།༎༏༑༒๚๛᰻᰼᱾᱿꧈꧉꩝꩞꩟꫰꫱꯫᪨᪩᪪᪫᭚᭛᭞᭟᜵᜶"
WIDE_MARKS = WIDE_ENDS + "、，；：､﹐﹑﹔﹕" + "၊፣፤፥፦᠂᠄᠈៖꧇"
# Glued to a mark, these stay with it: invisible characters, signs of footnotes, emoji, and "[1]", "[note 2]".
INVISIBLE = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"  # ranges, as in a character class
)
GLUE = INVISIBLE + "¹²³⁰-⁹†‡§\u20e3\u2190-\u21ff\u2300-\u23ff\u2460-\u27bf\u2900-\u2bff\U0001f000-\U0001faff"
FOOTNOTE = r"\[(?:\d{1,4}|[^\W\d_]|[^\W\d_]{1,9}\s\w{1,9}|\*)\]"


def _clause_pattern() -> re.Pattern[str]:
    """A pattern whose matches end where a clause may end, and never in the middle of a run of marks.

    It begins with one character class, so that `re` skips ordinary text at full speed. `lastgroup` tells what needs a
    second look: "period" (periods and closers only: abbreviation, ellipsis?), "joined" (no white space behind the mark:
    left out, or a file's name?), "line" (a line break), None (cut here).
    """
    m, q, w, c, e = (re.escape(s) for s in (MARKS, QUOTES, WIDE_MARKS, CLOSERS, EITHER))
    apart = re.escape(MARKS + QUOTES + CLOSERS + WIDE_MARKS + OPENERS)
    g, run = GLUE, f"{{0,{RUN}}}+"
    notes = rf"(?: {FOOTNOTE} [{c}{g}]{run} ){run}"
    return re.compile(
        rf"""[{m}{q}{c}{w}{NEWLINES}](?:
          (?<=[{NEWLINES}]) \s*+ (?P<line>)
        | (?<=[.…]) (?: (?!\s) [.…]{run} [{c}{g}]{run} {notes} )?+ (?=\s|\Z) (?!\s[»›](?:\s|\Z)) (?P<period>)
          # a mark; a quote that stands right behind a word; closers up to a mark or quote
        | (?: (?<=[{m}]) | (?<=[^\s{apart}][{q}]) | (?<=[{c}]) [{c}]{run} [{m}{q}] )
          (?: (?!\s) [{m}{q}{c}{g}]{run} {notes} )?+ (?: [“‘«] | \s[»›] )?+ (?=\s|\Z)  # last: „Ja.“ and « Oui. »
        | (?<=[^\W\d_][.!?]) (?=[^\W\d_a-z][^\W\d_A-Z]*\s) (?P<joined>)
          # full-width marks; quotes that could also open close only at the end of a sentence or before white space
        | (?: (?<=[{w}]) | (?<=[{m}{q}{c}]) [{m}{q}{c}]{run} [{w}] ) (?! (?<=\d[．，：]) \d )
          (?: [{w}!?…{g}] | {FOOTNOTE} | (?![{e}]) [”{c}] | ["{e}] (?: (?<=[{WIDE_ENDS}].) | (?=\s|\Z) ) )*+
        )""",
        re.VERBOSE,
    )


CLAUSE = _clause_pattern()
ALL_ENDS = ENDS + WIDE_ENDS


def before_white_space(text: str, start: int, end: int) -> int:
    """Step back from `end` over white space, not beyond `start`."""
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


class ClauseSegmenter:
    """Cuts after `, . ! ? ; :`, after a closing double quote, and before a line break.

    Closing quotes and brackets, signs of footnotes and emoji stay with the mark before them. ASCII marks cut only where
    white space follows (3.14, 1,000,
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
                period = match.start()
                if is_ellipsis(text, period, end) or not period_ends(text, start, period, end):
                    continue
            elif kind == "joined":
                if not is_left_out_space(text, end):
                    continue
            elif kind == "line":
                end = before_white_space(text, start, match.start())
            if end > start:
                yield end
                start = end
