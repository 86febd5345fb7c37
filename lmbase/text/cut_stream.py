"""Rule `learned` for a text that arrives token after token: what `LearnedCuts.cuts` finds in the whole, as soon as the
tokens are there.

The features are those of `places`, counted on from character to character; a test holds the two together.
"""

from math import log2

import numpy as np

from lmbase.text import places
from lmbase.text.learned import BLOCK, Chooser, LearnedCuts
from lmbase.text.places import UNITS

_WORD = 2**64 - 1
_FAR = 256  # beyond it distances are all the same
_LOG2 = [int(min(2 * log2(max(distance, 1)), 16)) for distance in range(_FAR + 1)]


class CutStream:
    """Reads a text's characters, and says at ends of tokens whether a sentence ends there."""

    def __init__(self, learned: LearnedCuts):
        self.learned, self.chooser = learned, Chooser(learned)
        self.kinds = places.kind_table()
        self.count = self.size = 0  # characters so far, and the size of the tokens in units
        self.past: list[int] = []  # codes of the latest characters, which a new slab looks back at
        # Of the text since the latest place, and since the one before: hash, next factor.
        self.spans: list[tuple[int, int]]
        self._begin_slab()
        self._begin_block()

    def read(self, text: str) -> None:
        for character in text:
            code = ord(character)
            self._pass(code)
            self.past.append(code)
            self.count += 1
            if self.count % BLOCK == 0:
                self.chooser.close(np.array(self.worths, np.int32), self.size, self.num_cuts)
                self._begin_block()
            if self.count % places.SLAB == 0:
                self._begin_slab()

    def cuts_here(self) -> bool:
        """Whether a sentence ends with what was read; to be asked at each end of a token, once."""
        self.size += UNITS
        if self.kinds[self.latest[-1]] not in places.ENDING:
            return False
        worth = self._worth()
        self.worths.append(worth)
        self.spans = [(0, 1), self.spans[0]]
        cuts = self.chooser.cuts_at(self.size, worth, self.threshold)
        self.num_cuts += cuts
        return cuts

    def _begin_block(self) -> None:
        self.worths: list[int] = []  # of its places
        self.num_cuts = 0
        self.threshold = self.chooser.threshold()

    def _begin_slab(self) -> None:
        """What features count, they count anew, a little before the slab."""
        behind, self.past = self.past[-places.PAST :], []
        self.index = 0  # of the next character in the slab and what is before it
        self.latest: tuple[int, ...] = (0,) * places.ORDERS  # codes, oldest first
        self.spans = [(0, 1), (0, 1)]
        self.line = self.mark = self.marks = self.line_marks = 0  # indices of the latest; marks so far, and at the line
        for code in behind:
            self._pass(code)
            self.past.append(code)

    def _pass(self, code: int) -> None:
        self.spans = [((total + code * factor) & _WORD, factor * places.FACTOR & _WORD) for total, factor in self.spans]
        if self.kinds[code] == places.MARKS:
            self.mark = self.index
            self.marks += 1
        if code == 10 or self.index == 0:  # a text's first character begins a line, too
            self.line, self.line_marks = self.index, self.marks
        self.latest = (*self.latest[1:], code)
        self.index += 1

    def _worth(self) -> int:
        """What a cut is worth here."""
        hashes, gram = [], 0
        for before in reversed(self.latest):
            gram = (gram ^ before) * places.FACTOR & _WORD
            gram ^= gram >> 29
            hashes.append(gram)
        hashes += [total * factor for (total, _), factor in zip(self.spans, (3, 5), strict=True)]
        last, second = self.latest[-1], self.latest[-2] if self.index > 1 else self.latest[-1]
        pair = self.kinds[second] + 8 * self.kinds[last]
        column, since_mark = (_LOG2[min(self.index - place, _FAR)] for place in (self.line, self.mark))
        in_line = min(self.marks - self.line_marks, 31)
        hashes += [pair, column * 64 + pair, since_mark * 64 + pair, in_line * 2**24 + last]
        worth = 0
        for number, hashed in enumerate(hashes, start=1):
            mixed = (hashed + number) * places.FACTOR & _WORD
            mixed = (mixed ^ (mixed >> 32)) * places.FACTOR & _WORD
            worth += int(self.learned.table[mixed >> 48])
        return worth
