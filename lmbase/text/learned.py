"""Rule `learned`: pieces begin where a small model, asked about the text so far, expects a fresh start to pay most.

`sllm learn-cuts` learns it from a train split. Whether a cut stands at a place depends on the text before it and on
nothing behind: what follows moves no cut, and a text cut as it arrives is cut as a whole. What a place is: `places`.

P places of a text where a cut may fall, K features of each.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from math import sqrt
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lmbase.text.places import CLASSES, MARK, TABLE, UNITS, Places, places_of

ARRAYS_NAME = "sentence_processor.safetensors"
VERSION = 3
BLOCK = MARK  # characters; the threshold is set anew for each
BLOCKS = 16  # so many before it are looked at
SHORTEST = 2  # tokens
PRIOR = 32  # places of the train split that stand for a text's past where it has little; few, so that it soon counts
MOST_AGE = 64  # tokens
RATES = 0.25, 4.0  # by how much what was cut lately may change how much is cut
ARRAYS = {"table": (np.int16, (TABLE,)), "discount": (np.int32, (MOST_AGE,)), "prior": (np.int32, (PRIOR,))}


@dataclass(frozen=True)
class LearnedCuts:
    """What is learned: whole numbers, so that cuts are the same everywhere.

    Attributes:
        table: (TABLE,) int16, what a feature adds to the worth of a cut.
        discount: (MOST_AGE,) int32, what a cut is worth less when the piece before it has so few tokens.
        prior: (PRIOR,) int32, worths of places of the train split.
        token_units: (len(CLASSES),) size of a character of each class, in 1/64 of a token.
        prior_units: size of the text that the prior's places stand for.
        tokens_per_piece: how long pieces are, about.
        pressure: how many places are to be above the threshold, for each piece that is wanted.
        longest: tokens after which the next place is taken, whatever its worth.
        tokenizer_hash: of the tokenizer whose tokens are meant; "" for any.
        version: of what is looked at; parameters that do not say it are of the first.
    """

    table: np.ndarray
    discount: np.ndarray
    prior: np.ndarray
    token_units: list[int]
    prior_units: int
    tokens_per_piece: float
    pressure: float
    longest: int
    tokenizer_hash: str = ""
    version: int = 1

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version {self.version}, which looked at other things than version {VERSION} does")
        for name, (kind, shape) in ARRAYS.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (np.dtype(kind), shape):
                found = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
                raise ValueError(f"{name} is {found} instead of {np.dtype(kind)} {shape}")
        if len(self.token_units) != len(CLASSES) or min(self.token_units) < 1 or self.prior_units < 1:
            raise ValueError("token_units and prior_units are not sizes")
        if not (SHORTEST <= self.tokens_per_piece <= self.longest and 0 < self.pressure < 1000):
            raise ValueError(
                f"{self.tokens_per_piece} tokens per piece, {self.longest} at most, {self.pressure} wanted"
            )

    @classmethod
    def of(cls, parameters: dict[str, Any] | None) -> "LearnedCuts":
        """Read parameters as a processor holds them; None: nothing is learned, pieces are equally long.

        Raises:
            ValueError: they are damaged, or those of another rule.
        """
        if parameters is None:
            return _unlearned()
        global _latest  # one entry is enough: a run has one set of parameters
        if _latest is None or _latest[0] is not parameters:
            try:
                _latest = (parameters, cls(**parameters))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"These are no parameters of rule 'learned' ({error}): they are damaged, or another rule's; make "
                    "them again with `sllm learn-cuts`, or copy the folder again from where it is whole."
                ) from error
        return _latest[1]

    def parameters(self) -> dict[str, Any]:
        """The inverse of `of`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def places(self, text: str, offsets: np.ndarray | None = None) -> Iterator[Places]:
        """Where it may cut, and what it knows of each place. Args: offsets: as for `places_of`."""
        return places_of(text, self.token_units, offsets)

    def worths(self, places: Places) -> np.ndarray:
        """(P,) int32: what a cut at each place is expected to bring, in any unit."""
        worths = np.zeros(len(places.offsets), np.int32)
        for row in places.features:
            worths += self.table[row]
        return worths

    def cuts(self, text: str, offsets: np.ndarray | None = None) -> Iterator[int]:
        """Offsets before which pieces begin. Args: offsets: ends of tokens, in characters."""
        chooser = Chooser(self)
        for places in self.places(text, offsets):
            yield from chooser.choose(places, self.worths(places))


class Chooser:
    """Goes through a text block after block. The threshold of a block is the worth that as many places of the blocks
    before it surpass as pieces are wanted of them, `pressure` times more and corrected by how many there were.

    The correction goes by the last block alone, a little at a time. Going by all blocks of the threshold, it would make
    up for what was long corrected, and sentences too short at first would be too long for the next 4,000 characters.
    """

    def __init__(self, cuts: LearnedCuts):
        self.learned = cuts
        self.discount = cuts.discount.tolist()
        self.last = 0  # size of the text up to the last cut, in units
        self.begun = 0  # size up to this block
        self.past: list[tuple[np.ndarray, int, int]] = []  # of each block: worths, units of text, cuts
        self.rate = 1.0

    def choose(self, places: Places, worths: np.ndarray) -> Iterator[int]:
        borders = np.searchsorted(places.offsets, np.arange(places.start, places.stop + BLOCK, BLOCK))
        for number, (first, stop) in enumerate(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)):
            end = places.unit_marks[number]
            block = worths[first:stop]
            found = self._block(block, places.sizes[first:stop], end)
            yield from places.offsets[first:stop][found].tolist()
            self.close(block, end, len(found))

    def close(self, worths: np.ndarray, end: int, num_cuts: int) -> None:
        """A block is over, whose places have these worths; the text has this size with it."""
        self.past = [*self.past, (worths, end - self.begun, num_cuts)][-BLOCKS:]
        self.begun = end

    def cuts_at(self, size: int, worth: int, threshold: int) -> bool:
        """The same place after place: whether this one is cut."""
        age, learned = size - self.last, self.learned
        if age < SHORTEST * UNITS or (worth < threshold and age < learned.longest * UNITS):
            return False
        known = worth - self.discount[min(age // UNITS, MOST_AGE - 1)]
        # Of many places as good as the threshold, as in a text that repeats itself, those that make long pieces do.
        enough = learned.longest if worth < threshold else learned.tokens_per_piece
        if age < enough * UNITS and known <= threshold:
            return False
        self.last = size
        return True

    def threshold(self) -> int:
        """What a place of the next block must be worth; once a block."""
        learned = self.learned
        worths = [block for block, _, _ in self.past]
        units = sum(units for _, units, _ in self.past)
        if self.past:  # too few or too many cuts just now: want more or fewer
            _, size, cuts = self.past[-1]
            ratio = (size / UNITS / learned.tokens_per_piece + 1) / (cuts + 1)
            slowly = sqrt(sqrt(ratio))  # a power would be another number on another machine
            self.rate = min(max(self.rate * slowly, RATES[0]), RATES[1])
        if len(self.past) < BLOCKS:
            worths.append(learned.prior)
            units += learned.prior_units
        known = np.concatenate(worths)
        if not len(known):
            return 0  # nor is there a place here, most likely
        wanted = units / UNITS / learned.tokens_per_piece * learned.pressure * self.rate
        above = min(max(round(wanted), 1), len(known))
        return int(np.partition(known, len(known) - above)[len(known) - above])

    def _block(self, worths: np.ndarray, sizes: np.ndarray, end: int) -> list[int]:
        """Indices of the places of a block that are cut."""
        threshold, found = self.threshold(), []
        longest = self.learned.longest * UNITS
        good = np.flatnonzero(worths >= threshold)
        rows = zip(good.tolist(), sizes[good].tolist(), worths[good].tolist(), strict=True)
        for i, size, worth in [*rows, (len(sizes), end, 0)]:  # the last is the end of the block
            while size - self.last >= longest:  # a place before this one, or none
                forced = int(np.searchsorted(sizes, self.last + longest))
                if forced >= i:
                    break
                found.append(forced)
                self.last = int(sizes[forced])
            if i < len(sizes) and self.cuts_at(size, worth, threshold):
                found.append(i)
        return found


@cache
def _unlearned() -> LearnedCuts:
    return LearnedCuts(
        np.zeros(TABLE, np.int16),
        np.zeros(MOST_AGE, np.int32),
        np.zeros(PRIOR, np.int32),
        [UNITS // 4 * (1 if size < 3 else 4) for _, size in CLASSES],
        PRIOR * UNITS,
        12.0,
        1.0,
        12,
        version=VERSION,
    )


_latest: tuple[dict[str, Any], LearnedCuts] | None = None


class LearnedSegmenter:
    """Cuts where `sllm learn-cuts` found that it pays; without its parameters after every twelve tokens or so."""

    always_open = True  # that nothing follows says nothing of whether a piece is over

    def learn(self, texts: Iterable[str]) -> None:
        """Nothing: learning takes a language model, see `sllm learn-cuts`."""

    def cuts(self, text: str, parameters: dict | None) -> Iterator[int]:
        return LearnedCuts.of(parameters).cuts(text)


# -- saved: what is no JSON stands in a file of its own ---------------------------------------------------------------


def apart(learned: dict | None) -> tuple[dict | None, dict[str, np.ndarray]]:
    """What a rule learned, as JSON values and as arrays."""
    arrays = {key: value for key, value in (learned or {}).items() if isinstance(value, np.ndarray)}
    return learned and {key: value for key, value in learned.items() if key not in arrays}, arrays


def hashes(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for name, array in arrays.items()}


def read_arrays(path: str | None, wanted: dict[str, str]) -> dict[str, np.ndarray]:
    """The arrays that `save_pretrained` wrote; KeyError if there are others."""
    try:
        arrays = load_file(path) if path else {}
    except SafetensorError as error:
        raise KeyError(f"{ARRAYS_NAME}: {error}") from error
    if hashes(arrays) != wanted:
        raise KeyError(f"{ARRAYS_NAME} is missing, or does not hold what was saved")
    return arrays
