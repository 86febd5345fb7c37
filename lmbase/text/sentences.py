"""Rule `sentence`: full sentences. Candidates come from the clause pattern; `periods` and Punkt decide.

NLTK's own search for candidates stops at a time limit on long lines, knows no full-width marks, and ends a sentence at
every ! and ? inside quotes.
"""

import re
from collections.abc import Iterable, Iterator

from lmbase.text.clauses import (
    ALL_ENDS,
    CLAUSE,
    MARKS,
    NEWLINES,
    OPENERS,
    QUOTES,
    WIDE_MARKS,
    before_white_space,
)
from lmbase.text.periods import STARTERS, is_ellipsis, is_left_out_space, next_word, period_ends
from lmbase.text.punkt import PunktModel, load_punkt, train_punkt

_PUNKT_WORD = re.compile(r"[\w.'’-]+\Z")
_BLANK_LINE = re.compile(rf"(?:\r\n|[{NEWLINES}])[^\S{NEWLINES}]*+[{NEWLINES}]")
_FIRST_LETTER = re.compile(r"[\W_]{0,16}+(\w)")
_MARK = re.compile(rf"[{re.escape(MARKS + WIDE_MARKS)}]")
_STOP = rf"{re.escape(MARKS + WIDE_MARKS + OPENERS + QUOTES)}"
# Behind closed speech, where letters tell nothing by their case: who says so, up to the verb.
_SAYS = re.compile(
    rf"""[^\s{_STOP}]{{0,12}}?(?:[说說问問答喊叫嚷吼]|道(?=[{_STOP}]))
    | \s(?:[^\s{_STOP}]{{1,16}}\s){{0,3}}?(?:
        said|asked|cried|replied|shouted|whispered|answered|called
        | कहा|कही|पूछ|बोल|चिल्ला|کہا|پوچھا|بول | (?:و|ف)?(?:قال|سأل|صاح|أجاب|هتف|صرخ|همس) | אמר|שאל|ענה|צעק|לחש
        | 말했|물었|대답|외쳤|소리쳤 | ถาม|พูด|ตอบ|บอก|ตะโกน | [^\s{_STOP}]{{0,12}}?(?:ถาม|พูด|ตอบ|บอก|ตะโกน)
      )""",
    re.VERBOSE,
)
_SPEECH = frozenset("“„\"«»‘「『'")  # open speech
_QUOTATIVE = re.compile(r"\s?(?:と|って|라고|하고)")  # Japanese and Korean say "so" behind what was said


class SentenceSegmenter:
    """Cuts where Punkt sees the end of a sentence, and at blank lines; other line breaks do not cut."""

    always_open = False

    def learn(self, texts: Iterable[str]) -> dict:
        """The abbreviations, collocations and first words of a corpus, for `cuts`."""
        return train_punkt(texts)

    def cuts(self, text: str, parameters: dict | None) -> Iterator[int]:
        model = load_punkt(parameters)
        start = 0
        for match in CLAUSE.finditer(text):
            begin, end = match.span()
            if match.lastgroup == "line":
                if not _BLANK_LINE.match(text, begin, end):
                    continue  # a line break inside a paragraph
                end = before_white_space(text, start, begin)
            elif not _sentence_ends(text, start, match, model):
                continue
            if end > start:
                yield end
                start = end


def _sentence_ends(text: str, start: int, match: re.Match[str], model: PunktModel) -> bool:
    """Does the run of marks that was matched, in a sentence that began at `start`, end the sentence?"""
    begin, end = match.span()
    kind = match.lastgroup
    if kind == "joined":
        return is_left_out_space(text, end)
    if kind != "period":
        run = match.group()
        mark = run if len(run) == 1 else (_MARK.findall(run) or " ")[-1]
        if mark not in ALL_ENDS and not (mark == ";" and "Ͱ" <= text[begin - 1] <= "Ͽ"):
            return False
    elif not is_ellipsis(text, begin, end) and not period_ends(text, start, begin, end):
        return False
    capital = end - begin == 1 and text[end : end + 1] == " " and text[end + 1 : end + 2].isupper()  # most often
    if not capital and _goes_on(text, start, begin, end):
        return False
    if kind != "period":
        return True
    word = text[max(start, begin - 64) : begin].rpartition(" ")[2]
    if not word.isalpha():
        match_word = _PUNKT_WORD.search(word)
        word = match_word.group() if match_word else ""
    ellipsis = is_ellipsis(text, begin, end)
    # `period_ends` knows more about initials than Punkt
    if not ellipsis and (len(word) < 2 or not model.may_know(word)):
        return True
    following = next_word(text, end)
    if ellipsis and (following in STARTERS or not (word and following)):
        return following in STARTERS
    return not following or model.sentence_ends(word + ("..." if ellipsis else "."), following)


def _goes_on(text: str, start: int, begin: int, end: int) -> bool:
    """Does the sentence that began at `start` go on behind the marks at text[begin:end]: “Who is it?” he asked."""
    following = next_word(text, end)
    closed = end - begin > 1 and not _MARK.match(text, end - 1)
    if following[:1].islower():
        first = _FIRST_LETTER.match(text, start)  # in text that has capitals at all
        known = text[begin] not in ".…" or text[max(start, begin - 4) : begin].rpartition(" ")[1]  # not a short word
        return closed or bool(known and text[end] == " " and first and first.group(1).isupper())
    if not closed:
        return False
    if _QUOTATIVE.match(text, end):
        return True
    return text[start:begin].lstrip()[:1] in _SPEECH and bool(_SAYS.match(text, end))
