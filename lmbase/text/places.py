"""Places of a text where rule `learned` may cut, and what is known of each from the text before it.

A place stands behind a mark. Where a text's tokens are known, one must end there, and those that end in white space
have a place behind them, too. Otherwise what follows must be white space or, where byte-level tokenizers part words,
too, a letter or digit ("a,|b", "(|x", "。|你"); never inside a number, before an apostrophe's letter, or before a mark;
and the ends of lines are places.

P places, K features; a slab is what is looked at at once.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

TABLE = 2**16  # what features are hashed to
SLAB = 2**16  # characters
PAST = 256  # characters before a slab that its features may look at
UNITS = 64  # sizes are counted in 1/64 of a token: whole numbers, the same on every machine
MARK = 256  # characters from one entry of `unit_marks` to the next
ORDERS = 7  # n-grams of 1 to so many characters
NUM_FEATURES = ORDERS + 6
# (kind, UTF-8 bytes) of characters that take about as many tokens
CLASSES = [*((kind, 1) for kind in ("space", "letter", "digit", "mark")), ("any", 2), ("any", 3), ("any", 4)]
SPACE, LETTER, DIGIT, MARKS, JOINS = range(5)  # kinds of characters
ENDING = (SPACE, MARKS)  # those with which a token ends that may end a sentence
FACTOR = 0x9E3779B97F4A7C15  # of hashes
_FACTOR = np.uint64(FACTOR)
_APOSTROPHE, _QUOTE = ord("'"), ord("’")


@dataclass
class Places:
    """The places of the characters start..stop of a text.

    Attributes:
        offsets: (P,) int64, rising: a cut would stand before the character text[offset].
        features: (K, P) int64, rows of the table.
        sizes: (P,) int64, size of the text before each place, in units.
        unit_marks: size of the text before start + MARK, start + 2 MARK, ... and before stop.
    """

    start: int
    stop: int
    offsets: np.ndarray
    features: np.ndarray
    sizes: np.ndarray
    unit_marks: list[int]


def places_of(text: str, token_units: Sequence[int], offsets: np.ndarray | None = None) -> Iterator[Places]:
    """The places of a text, slab after slab.

    Args:
        token_units: size of a character of each of CLASSES.
        offsets: characters behind which tokens end, rising; sizes then count these.
    """
    units, size = np.asarray(token_units, np.int64), 0
    for start in range(0, len(text), SLAB):
        behind = min(start, PAST)
        part = text[start - behind : start + SLAB]
        codes = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), np.uint32)
        kinds = _kinds()[codes]
        classes = _classes(kinds, _lengths(codes))
        grown = np.cumsum(units[classes[behind:]]) + size  # with each character
        stop = start - behind + len(codes)
        if offsets is None:
            found = _places(codes, kinds)
            found = found[found >= max(behind, 1)]
            before = np.concatenate([[size], grown])[found - behind]
            marks = [int(grown[min(i, len(grown)) - 1]) for i in range(MARK, len(grown) + MARK, MARK)]
        else:
            first, last = np.searchsorted(offsets, [max(start, 1), stop])
            found = offsets[first:last] - (start - behind)
            before = UNITS * np.arange(first + 1, last + 1)
            marks = [
                UNITS * int(np.searchsorted(offsets, min(i, stop))) for i in range(start + MARK, stop + MARK, MARK)
            ]
            good = np.isin(kinds[found - 1], ENDING)
            found, before = found[good], before[good]
        yield Places(start, stop, found + (start - behind), _features(codes, kinds, found), before, marks)
        size = int(grown[-1])


@cache
def kind_table() -> bytes:
    """The kind of each code point, for one at a time."""
    return _kinds().tobytes()


def character_classes(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each character the number of its class in CLASSES and its UTF-8 bytes."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return _classes(_kinds()[codes], _lengths(codes)), _lengths(codes)


def _lengths(codes: np.ndarray) -> np.ndarray:
    return 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)


def _classes(kinds: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.where(lengths == 1, kinds, lengths + 2)


@cache
def _kinds() -> np.ndarray:
    """The kind of each code point."""
    kinds = np.full(0x110000, LETTER, np.uint8)
    for code in range(0x20000):  # the planes above have letters, but for the selectors below
        character = chr(code)
        if character.isspace():
            kinds[code] = SPACE
        elif (category := unicodedata.category(character))[0] == "N":
            kinds[code] = DIGIT
        elif category[0] == "M" or category == "Cf":
            kinds[code] = JOINS  # the character before
        elif category[0] in "PS":
            kinds[code] = MARKS
    kinds[0x1F3FB:0x1F400] = kinds[0xE0000:0xE0200] = JOINS
    return kinds


def _places(codes: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Indices i of codes such that a cut may stand before i."""
    space, mark, digit = kinds == SPACE, kinds == MARKS, kinds == DIGIT
    number = np.zeros(len(codes), bool)  # a digit behind a digit and a mark
    number[2:] = digit[2:] & mark[1:-1] & digit[:-2]
    parts = mark & (codes != _APOSTROPHE) & (codes != _QUOTE)
    opens = parts[:-1] & (digit | (kinds == LETTER))[1:] & ~number[1:]
    line_ends = ~space[:-1] & (codes[1:] == ord("\n"))
    return np.flatnonzero(mark[:-1] & (space[1:] | opens) | line_ends) + 1


def _features(codes: np.ndarray, kinds: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(K, P) rows of the table for the places before codes[found]."""
    wide = np.concatenate([np.zeros(ORDERS, np.uint64), codes.astype(np.uint64)])
    index = np.arange(len(codes))
    hashes = []
    gram = np.zeros(len(found), np.uint64)
    for order in range(ORDERS):
        gram = (gram ^ wide[found + ORDERS - 1 - order]) * _FACTOR
        gram ^= gram >> np.uint64(29)
        hashes.append(gram)
    before, second = kinds[found - 1].astype(np.uint64), kinds[np.maximum(found - 2, 0)].astype(np.uint64)

    powers = np.full(len(codes), _FACTOR, np.uint64)
    powers = np.cumprod(powers)
    inverse = np.cumprod(np.full(len(codes), pow(FACTOR, -1, 2**64), np.uint64))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(codes.astype(np.uint64) * powers)])
    ends = np.concatenate([[0, 0], found])
    for words in (1, 2):  # the text since the place before, and since the one before that
        begin = ends[2 - words : len(ends) - words]
        span = (sums[found] - sums[begin]) * inverse[begin]
        hashes.append(span * np.uint64(2 * words + 1))

    newline, mark = codes == ord("\n"), kinds == MARKS
    last_line = np.maximum.accumulate(np.where(newline, index, 0))[found - 1]
    last_mark = np.maximum.accumulate(np.where(mark, index, 0))[found - 1]
    marks = np.cumsum(mark)
    in_line = np.minimum(marks[found - 1] - marks[last_line], 31).astype(np.uint64)
    column = _log2(found - last_line)
    since_mark = _log2(found - last_mark)
    last = codes[found - 1].astype(np.uint64)
    pair = second + np.uint64(8) * before
    hashes += [
        pair,
        column * np.uint64(64) + pair,
        since_mark * np.uint64(64) + pair,
        in_line * np.uint64(2**24) + last,
    ]
    rows = np.empty((NUM_FEATURES, len(found)), np.int64)
    for number, hashed in enumerate(hashes):
        mixed = (hashed + np.uint64(number + 1)) * _FACTOR
        mixed = (mixed ^ (mixed >> np.uint64(32))) * _FACTOR
        rows[number] = (mixed >> np.uint64(48)).astype(np.int64)
    return rows


def _log2(distance: np.ndarray) -> np.ndarray:
    """Distances in half powers of two, 0 to 16."""
    return np.minimum(2 * np.log2(np.maximum(distance, 1)), 16).astype(np.uint64)
