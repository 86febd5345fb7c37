"""Where two texts differ, word by word."""

import difflib
import re

# A word or a mark with the white space before it. Chinese, Japanese and Korean characters each count as a word.
_CJK = "\u3001-\u30ff\u3400-\u9fff\uac00-\ud7af\uff01-\uff60"
_WORD = re.compile(rf"\s*(?:[{_CJK}]|[^\W{_CJK}]+|[^\w\s])|\s+")


def split_words(text: str) -> list[str]:
    """Words and punctuation marks, each with the white space before it; joined they are the text again."""
    return _WORD.findall(text)


def mark_differences(text: str, other: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts as stretches of (characters, differs), compared word by word (difflib)."""
    a, b = split_words(text), split_words(other)
    left: list[tuple[str, bool]] = []
    right: list[tuple[str, bool]] = []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if a1 > a0:
            left.append(("".join(a[a0:a1]), kind != "equal"))
        if b1 > b0:
            right.append(("".join(b[b0:b1]), kind != "equal"))
    return left, right
