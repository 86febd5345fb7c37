"""Costs in which it is planted where cuts are worth something: behind ";"."""

from functools import cached_property

import numpy as np
from tiny import make_processor

from sllm.cuts.fitting import Text

LONGEST = 32
PROCESSOR = make_processor()
WORDS = ["ab", "cd", "ef", "gh;", "ij"]


def words(number: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, number))


class Planted:
    """A token costs 1, and half of it where the text before its piece ends with ";" or "; ", or has not begun."""

    def __init__(self, text: Text):
        self.size = len(text.ids)
        mark = PROCESSOR.codec.encode(";")[0]
        marks = np.concatenate([[False, False], text.ids == mark])
        self.good = marks[1:-1] | marks[:-2]
        self.good[:1] = True

    def of(self, starts):
        ages = np.arange(LONGEST)
        return np.stack([np.where(start + ages < self.size, 1.0 - 0.5 * self.good[start], 0) for start in starts])

    @cached_property
    def entropies(self):
        """Of an entropy that rises where a state is worth something."""
        return self.good.astype(float) + np.random.default_rng(0).random(self.size)
