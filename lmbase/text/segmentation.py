"""Cutting text into the pieces ("sentences") that a sentence-level model reads and writes.

Three promises hold for every rule and every Unicode string, lone surrogates and NUL bytes included:

- lossless: ``"".join(segment(text, rule)) == text``, and no piece is empty;
- white space opens the next piece, so that no piece ends with white space; only the white space that ends a text is a
  piece of its own. (A byte-level BPE writes " word" as one token: white space at the end of pieces would cost tokens.)
- linear time: nothing looks further than a few dozen characters around a mark.

A new rule is one class in a file of its own and one line in `SEGMENTERS`.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Protocol

from lmbase.text.clauses import ALL_ENDS, CLOSERS, QUOTES, ClauseSegmenter
from lmbase.text.learned import LearnedSegmenter
from lmbase.text.lines import MAX_LINE, LineSegmenter
from lmbase.text.sentences import SentenceSegmenter


class Segmenter(Protocol):
    """A rule for where to cut. `segment` turns its cuts into pieces, so it only has to find places."""

    always_open: bool  # more text after a space always belongs to the last piece (see `is_open`)

    def learn(self, texts: Iterable[str]) -> dict | None:
        """JSON values learned from the texts of a train split, which `cuts` then gets; None if nothing is learned."""

    def cuts(self, text: str, parameters: dict | None) -> Iterable[int]:
        """Rising offsets into the text, each behind a character that is not white space.

        Args:
            text: any string.
            parameters: what `learn` returned; None for the defaults.
        """


LEARNED = "learned"
SEGMENTERS: dict[str, Segmenter] = {
    "punctuation": ClauseSegmenter(),
    "sentence": SentenceSegmenter(),
    "line": LineSegmenter(),
    LEARNED: LearnedSegmenter(),
}
AUTO = "auto"  # `choose_rule` decides for each text
SAMPLE = 16_384  # characters of a document that choose_rule looks at


class _Rules(Sequence[str]):
    """Names of the rules that there are at the moment, so that one registered later is among them."""

    def __getitem__(self, index: Any) -> Any:
        return (*SEGMENTERS, AUTO)[index]

    def __len__(self) -> int:
        return len(SEGMENTERS) + 1


RULES = _Rules()


def check_rule(rule: str) -> None:
    """Raise ValueError unless there is a rule of this name."""
    if rule not in RULES:
        raise ValueError(
            f"rule={rule!r} is unknown: use one of {', '.join(RULES)}, or a folder that `sllm learn-cuts` wrote."
        )


def segment(text: str, rule: str = AUTO, *, punkt: dict | None = None) -> list[str]:
    """Cut a text into pieces that join to the text again.

    Args:
        text: any string.
        rule: how to cut.

            - ``punctuation``: clauses, at `, . ! ? ; :`, closing quotes and line breaks (`clauses.ClauseSegmenter`).
            - ``sentence``: full sentences, decided by NLTK Punkt (`sentences.SentenceSegmenter`).
            - ``line``: lines, the long ones cut at spaces (`lines.LineSegmenter`).
            - ``learned``: where `sllm learn-cuts` found that it pays (`learned.LearnedSegmenter`).
            - ``auto``: what `choose_rule` picks for this text.
        punkt: what the rule learned. For ``sentence`` (`learn_parameters`) it adds to the abbreviations that every
            rule knows; without it, an installed NLTK model (``punkt_tab``, English) serves, or none, said once in a
            warning. For ``learned`` it is what a processor of `sllm learn-cuts` has as its `punkt`; without it pieces
            are about equally long. The other rules do not read it.

    Returns:
        Pieces, none empty; an empty text has none.

    Raises:
        ValueError: unknown rule, or `punkt` is not what `learn_parameters` returns.
    """
    check_rule(rule)
    if rule == AUTO:
        rule = choose_rule(text)
    cuts = list(SEGMENTERS[rule].cuts(text, punkt))
    end = len(text.rstrip())
    if end and (not cuts or cuts[-1] < end):
        cuts.append(end)
    cuts.append(len(text))
    return [text[a:b] for a, b in pairwise([0, *cuts]) if a < b]


def learn_parameters(rule: str, texts: Iterable[str]) -> dict | None:
    """What a rule learns from the texts of a train split, for ``segment(..., punkt=)``; None if it learns nothing."""
    check_rule(rule)
    return None if rule == AUTO else SEGMENTERS[rule].learn(texts)


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
    check_rule(rule)
    if rule == AUTO:
        rule = choose_rule(piece)
    return SEGMENTERS[rule].always_open or segment(piece + " Next", rule, punkt=punkt)[0] != piece


# --- auto -------------------------------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(rf"[{re.escape(ALL_ENDS)}][{re.escape(CLOSERS + QUOTES)}“‘«]*+\Z")
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


class LoneSurrogateError(ValueError):
    """A text that has no UTF-8 form."""


def check_unicode(text: str) -> str:
    """Return `text`, or raise LoneSurrogateError naming the offset of its first lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LoneSurrogateError(
            f"Lone surrogate U+{ord(text[error.start]):04X} at character {error.start}: the text has no UTF-8 form. "
            "It was probably decoded with the wrong codec; decode it again or remove the character."
        ) from error
    return text
