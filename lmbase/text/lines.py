"""Rule `line`: lines, for code, tables, logs, lists and verse."""

import re
from collections.abc import Iterable, Iterator

from lmbase.text.clauses import NEWLINES, before_white_space

MAX_LINE = 256  # characters of one piece, its leading white space not counted

_LINE_BREAK = re.compile(rf"[{NEWLINES}]\s*+")


class LineSegmenter:
    """Cuts before line breaks, so that indentation is kept; a line of more than `MAX_LINE` characters is cut, at spaces
    where there are any."""

    always_open = True  # what follows a space belongs to the same line

    def learn(self, texts: Iterable[str]) -> None:
        """Nothing is learned: the rule is the same for every corpus."""

    def cuts(self, text: str, parameters: dict | None) -> Iterator[int]:
        start = 0
        for match in _LINE_BREAK.finditer(text):
            end = before_white_space(text, start, match.start())
            if end > start:
                yield from _long_line_cuts(text, start, end)
                yield end
                start = end
        yield from _long_line_cuts(text, start, before_white_space(text, start, len(text)))


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
