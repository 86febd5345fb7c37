"""Where a long text may be cut in two: after a paragraph, else a sentence, line or word; white space opens the rest."""

import re

# What each is followed by stands in a lookahead, so that a match ends where the first part does.
BORDERS = [
    re.compile(r"\S(?=[^\S\n]*\n\s*\n)"),
    re.compile(r"[.!?…][\"'”’»)\]]*(?=\s)|[。！？｡।॥؟۔][”’」』）]*(?=.)", re.DOTALL),
    re.compile(r"\S(?=[^\S\n]*\n)"),
    re.compile(r"\S(?=\s)"),
]


def last_border(text: str, limit: int, window: int) -> int:
    """How much of `text[:limit]` the first part of the text should have, at least `limit - window` characters.

    Returns:
        An offset of at most `limit`; `limit` itself, between any two characters, if there is no border in the window.
    """
    start = max(0, limit - window)
    for border in BORDERS:
        ends = [match.end() for match in border.finditer(text, start, min(limit + 1, len(text)))]
        if ends := [end for end in ends if end <= limit]:
            return ends[-1]
    return limit
