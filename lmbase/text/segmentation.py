"""Cutting text into the pieces ("sentences") that a sentence-level model reads and writes.

Three promises hold for every rule and every Unicode string, lone surrogates and NUL bytes included:

- lossless: ``"".join(segment(text, rule)) == text``, and no piece is empty;
- white space opens the next piece, so that no piece ends with white space; only the white space that ends a text is a
  piece of its own. (A byte-level BPE writes " word" as one token: white space at the end of pieces would cost tokens.)
- linear time: nothing looks further than a few dozen characters around a mark.

A rule yields cuts, rising offsets into the text; all else is slicing.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from lmbase.text.punkt import PunktModel, load_punkt, train_punkt

__all__ = ["MAX_LINE", "RULES", "choose_rule", "is_open", "segment", "train_punkt"]

RULES = ("punctuation", "sentence", "line", "auto")
MAX_LINE = 256  # characters of one piece under `line`, its leading white space not counted
SAMPLE = 16_384  # characters of a document that choose_rule looks at
RUN = 32  # longest run of marks and closers read as one: keeps a megabyte of ")))))" linear

# --- characters -------------------------------------------------------------------------------------------------------

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
_ENUMERATOR = re.compile(r"\s*+(?:\d{1,3}|[^\W\d_]|[IVXLC]+)")  # "1.", "a.", "IV." that open a piece
_NUMBER_NEXT = re.compile(r"\s+\d")
_INITIAL_NEXT = re.compile(r"\s[A-Z]\.")
_INITIAL_BEFORE = re.compile(r"\b[A-Z]\.\s")
_PUNKT_WORD = re.compile(r"[\w.'’-]+\Z")
_NEXT_WORD = re.compile(rf"\s+[{re.escape(OPENERS + EITHER + QUOTES)}]{{0,8}}+(\w[\w'’-]{{0,63}}|\S)")
_LINE_BREAK = re.compile(rf"[{NEWLINES}]\s*+")
_BLANK_LINE = re.compile(rf"(?:\r\n|[{NEWLINES}])[^\S{NEWLINES}]*+[{NEWLINES}]")


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


_CLAUSE = _clause_pattern()
_AFTER_MARKS = CLOSERS + QUOTES + "“‘« \xa0\u202f"  # what the pattern takes in behind the last mark
_ALL_ENDS = ENDS + WIDE_ENDS

# --- rules ------------------------------------------------------------------------------------------------------------


def _before_white_space(text: str, start: int, end: int) -> int:
    """Step back from `end` over white space, not beyond `start`."""
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


def _is_ellipsis(text: str, period: int, end: int) -> bool:
    """Part of "...", "…" or ". . ."? The marks at text[period:end] hold nothing but periods and closers."""
    return (
        text[period] == "…"
        or text[period + 1 : period + 2] in (".", "…")
        or text[end + 1 : end + 2] == "."
        or (period > 0 and text[period - 1].isspace())
    )


def _period_cuts(text: str, start: int, period: int, end: int) -> bool:
    """Does the period at text[period] end a clause, in a piece that began at `start`?"""
    if _is_ellipsis(text, period, end):
        return False
    match = _WORD_BEFORE.search(text, max(start, period - 12), period)
    if match is None:
        return period > start  # after a bracket, a sign, an emoji
    word = match.group()
    if word in ABBREVIATIONS or _DOTTED.fullmatch(word) or _ENUMERATOR.fullmatch(text, start, period):
        return False
    if len(word) == 1 and word.isupper():
        # "It is I." ends a sentence: I is an initial only beside another one
        return word == "I" and not (
            _INITIAL_NEXT.match(text, end) or _INITIAL_BEFORE.match(text, max(start, period - 4), period)
        )
    return not (word in NUMBERED and _NUMBER_NEXT.match(text, end))


def _punctuation_cuts(text: str) -> Iterator[int]:
    start = 0
    for match in _CLAUSE.finditer(text):
        kind, end = match.lastgroup, match.end()
        if kind == "period":
            if not _period_cuts(text, start, match.start(), end):
                continue
        elif kind == "line":
            end = _before_white_space(text, start, match.start())
        if end > start:
            yield end
            start = end


def _sentence_cuts(text: str, punkt: dict | None) -> Iterator[int]:
    """Candidates from the clause pattern, decided by Punkt.

    NLTK's own search for candidates stops at a time limit on long lines, knows no full-width marks, and ends a sentence
    at every ! and ? inside quotes.
    """
    model = load_punkt(punkt, ABBREVIATIONS)
    start = 0
    for match in _CLAUSE.finditer(text):
        begin, end = match.span()
        if match.lastgroup == "line":
            if not _BLANK_LINE.match(text, begin, end):
                continue  # a line break inside a paragraph
            end = _before_white_space(text, start, begin)
        elif not _sentence_ends(text, start, match, model):
            continue
        if end > start:
            yield end
            start = end


def _sentence_ends(text: str, start: int, match: re.Match[str], model: PunktModel) -> bool:
    """Does the run of marks that was matched, in a sentence that began at `start`, end the sentence?"""
    begin, end = match.span()
    marks = match.group().rstrip(_AFTER_MARKS)
    if not marks or marks[-1] not in _ALL_ENDS:
        return False
    following = _NEXT_WORD.match(text, end)
    if following is None:
        return True
    if match.lastgroup != "period":
        quoted = len(marks) < end - begin
        return not (quoted and following.group(1).islower())  # “Who is there?” he asked.
    found = _PUNKT_WORD.search(text, max(start, begin - 64), begin)
    if found is None:
        return not _is_ellipsis(text, begin, end)
    word = found.group()
    if (word in NUMBERED and _NUMBER_NEXT.match(text, end)) or _ENUMERATOR.fullmatch(text, start, begin):
        return False
    return model.sentence_ends(word + marks.replace("…", "..."), following.group(1))


def _line_cuts(text: str) -> Iterator[int]:
    start = 0
    for match in _LINE_BREAK.finditer(text):
        end = _before_white_space(text, start, match.start())
        if end > start:
            yield from _long_line_cuts(text, start, end)
            yield end
            start = end
    yield from _long_line_cuts(text, start, _before_white_space(text, start, len(text)))


def _long_line_cuts(text: str, start: int, end: int) -> Iterator[int]:
    """Cuts inside the line text[start:end] that leave at most MAX_LINE characters after each leading white space."""
    while True:
        while start < end and text[start].isspace():
            start += 1
        if end - start <= MAX_LINE:
            return
        window = text[start : start + MAX_LINE + 1]
        head = window.rstrip() if window[-1].isspace() else window.rsplit(None, 1)[0]
        start += min(len(head), MAX_LINE)  # no space in the window: cut a word
        yield start


def segment(text: str, rule: str = "auto", *, punkt: dict | None = None) -> list[str]:
    """Cut a text into pieces that join to the text again.

    Args:
        text: any string.
        rule: how to cut.

            - ``punctuation``: clauses. After `, . ! ? ; :`, after a closing double quote, and before a line break;
              closing quotes and brackets stay with what they close. ASCII marks cut only where white space follows
              (3.14, 1,000, 10:30, example.com stay whole), full-width marks everywhere. Ellipses, initials (J. K.
              Rowling), abbreviations (Mr., e.g., etc.) and the number of a list item (1.) do not cut.
            - ``sentence``: full sentences, decided by NLTK Punkt; blank lines end a sentence, line breaks do not.
            - ``line``: lines, indentation kept; a line longer than `MAX_LINE` characters is cut, if possible at spaces.
            - ``auto``: what `choose_rule` picks for this text.
        punkt: Punkt parameters from `train_punkt`, read by rule ``sentence`` only. Without them an installed NLTK
            model (``punkt_tab``, English) serves, else Punkt's defaults with the abbreviations of ``punctuation``,
            said once in a warning.

    Returns:
        Pieces, none empty; an empty text has none.

    Raises:
        ValueError: unknown rule, or `punkt` is not what `train_punkt` returns.
    """
    if rule not in RULES:
        raise ValueError(f"unknown segmentation rule {rule!r}: use one of {', '.join(RULES)}")
    if rule == "auto":
        rule = choose_rule(text)
    if rule == "punctuation":
        cuts = list(_punctuation_cuts(text))
    elif rule == "sentence":
        cuts = list(_sentence_cuts(text, punkt))
    else:
        cuts = list(_line_cuts(text))
    end = len(text.rstrip())
    if end and (not cuts or cuts[-1] < end):
        cuts.append(end)
    cuts.append(len(text))
    return [text[a:b] for a, b in pairwise([0, *cuts]) if a < b]


def is_open(piece: str, rule: str, *, punkt: dict | None = None) -> bool:
    """May more text still belong to this last piece of a prompt?

    "He said" is open, "He left." is closed. Closed means: another word after a space begins a new piece and leaves this
    one as it is. Lines are always open, and so is white space, because it opens the piece that comes next.

    Args:
        piece: last element of ``segment(prompt, rule)``.
        rule: the rule it was cut by. With ``auto`` pass ``choose_rule(prompt)``: a piece alone may be judged otherwise.
        punkt: as given to `segment`.

    Raises:
        ValueError: as `segment`.
    """
    if rule == "auto":
        rule = choose_rule(piece)
    return rule == "line" or segment(piece + " Next", rule, punkt=punkt)[0] != piece


# --- auto -------------------------------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(rf"[{re.escape(_ALL_ENDS)}][{re.escape(CLOSERS + QUOTES)}“‘«]*+\Z")
_SYMBOL = re.compile(r"[0-9#$%&*+/<=>@\\^_`|~{}()\[\]\"']|[,.;:](?=\S)")
PROSE_WIDTH = 60  # characters: prose is not wrapped narrower than this
_GOES_ON = frozenset("abcdefghijklmnopqrstuvwxyz,")


def choose_rule(text: str) -> str:
    """Tell which rule ``auto`` uses: ``line`` for code, tables, logs, lists and verse, ``punctuation`` for prose.

    Two signs, read off the first `SAMPLE` characters, speak for lines:

    - many digits and symbols (a fifth of the characters that are not white space): code, tables, logs;
    - line breaks that no margin forced (the next line's first word would have fitted) between lines that do not end
      like a sentence. Wrapped prose breaks at its margin; paragraphs and dialogue end like sentences; lists and verse
      do neither.

    ``sentence`` is never picked: ``punctuation`` needs no parameters, works for any script and is the unit of the
    published results, and what ``auto`` does should depend on nothing but the text.
    """
    sample = text[:SAMPLE]
    lines = sample.splitlines()
    if len(text) > SAMPLE and len(lines) > 1:
        lines.pop()  # cut off in its middle
    solid = sum(map(len, sample.split()))
    if (len(lines) > 1 or len(text) > 4 * MAX_LINE) and len(_SYMBOL.findall(sample)) > 0.2 * solid:
        return "line"

    written = [line.rstrip() for line in lines if line.strip()]
    widths = sorted(map(len, written))
    margin = max(PROSE_WIDTH, widths[len(widths) * 4 // 5]) if widths else PROSE_WIDTH
    pairs = [(a.rstrip(), b) for a, b in pairwise(lines) if a.strip() and b.strip()]
    free = sum(_free_break(line, following, margin) for line, following in pairs)
    ended = sum(len(line) for line in written if _SENTENCE_END.search(line[-8:]))
    if pairs and free >= 0.5 * len(pairs) and ended < 0.6 * sum(widths):
        return "line"
    return "punctuation"


def _free_break(line: str, following: str, margin: int) -> bool:
    """Was there room for the first word of the following line?"""
    if len(line) >= PROSE_WIDTH // 2 and line[-1] in _GOES_ON and following[0].islower():
        return False  # loosely wrapped prose: the sentence goes on
    return len(line) + 1 + len(following.split(None, 1)[0]) <= margin


def is_unicode(text: str) -> bool:
    """Whether the text has a UTF-8 form, that is, no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_unicode(text: str) -> str:
    """Return `text`, or raise ValueError naming the offset of its first lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Lone surrogate U+{ord(text[error.start]):04X} at character {error.start}: the text has no UTF-8 form. "
            "It was probably decoded with the wrong codec; decode it again or remove the character."
        ) from error
    return text
