"""Rule `sentence`: full sentences. Candidates come from the clause pattern, and Punkt decides.

NLTK's own search for candidates stops at a time limit on long lines, knows no full-width marks, and ends a sentence at
every ! and ? inside quotes.
"""

import re
from collections.abc import Iterable, Iterator

from lmbase.text.clauses import (
    ABBREVIATIONS,
    AFTER_MARKS,
    ALL_ENDS,
    CLAUSE,
    EITHER,
    ENUMERATOR,
    NEWLINES,
    NUMBER_NEXT,
    NUMBERED,
    OPENERS,
    QUOTES,
    before_white_space,
    is_ellipsis,
)
from lmbase.text.punkt import PunktModel, load_punkt, train_punkt

_PUNKT_WORD = re.compile(r"[\w.'’-]+\Z")
_NEXT_WORD = re.compile(rf"\s+[{re.escape(OPENERS + EITHER + QUOTES)}]{{0,8}}+(\w[\w'’-]{{0,63}}|\S)")
_BLANK_LINE = re.compile(rf"(?:\r\n|[{NEWLINES}])[^\S{NEWLINES}]*+[{NEWLINES}]")


class SentenceSegmenter:
    """Cuts where Punkt sees the end of a sentence, and at blank lines; other line breaks do not cut."""

    always_open = False

    def learn(self, texts: Iterable[str]) -> dict:
        """The abbreviations, collocations and first words of a corpus, for `cuts`."""
        return train_punkt(texts)

    def cuts(self, text: str, parameters: dict | None) -> Iterator[int]:
        model = load_punkt(parameters, ABBREVIATIONS)
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
    marks = match.group().rstrip(AFTER_MARKS)
    if not marks or marks[-1] not in ALL_ENDS:
        return False
    following = _NEXT_WORD.match(text, end)
    if following is None:
        return True
    if match.lastgroup != "period":
        quoted = len(marks) < end - begin
        return not (quoted and following.group(1).islower())  # “Who is there?” he asked.
    found = _PUNKT_WORD.search(text, max(start, begin - 64), begin)
    if found is None:
        return not is_ellipsis(text, begin, end)
    word = found.group()
    if (word in NUMBERED and NUMBER_NEXT.match(text, end)) or ENUMERATOR.fullmatch(text, start, begin):
        return False
    return model.sentence_ends(word + marks.replace("…", "..."), following.group(1))
