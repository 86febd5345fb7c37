"""Strings that end a text as it is written: found in characters, whatever tokens spell them."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerFast

from lmbase.text.streaming import TextDecoder
from lmbase.text.texts import text_list


def check_stop_strings(value: str | Iterable[str] | None) -> list[str]:
    """One string or several as a list; None is none.

    Raises:
        ValueError: something that is no text, or a text of no characters.
    """
    strings = [] if value is None else text_list(value, "stop_strings")
    if "" in strings:
        raise ValueError(f"stop_strings={value!r}: an empty text is everywhere, so nothing would be written; drop it.")
    return strings


class StopStrings:
    """Follows what is new of one text, token by token, and tells where the first of the strings begins in it.

    Args:
        before: the ids that are given, whose last character may not be whole yet.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, strings: Sequence[str], before: Iterable[int] = ()):
        self.strings = strings
        self.text = ""
        self.found: int | None = None  # characters before the string that was whole first
        self._decoder = TextDecoder(tokenizer)
        self._decoder.add(before)
        self._ends: list[int] = []  # of each token in the text; one behind it while its last character is not whole

    def add(self, token: int) -> bool:
        """Whether one of the strings is whole with this token."""
        before = len(self.text)
        self.text += self._decoder.add([token])
        self._ends.append(len(self.text) + self._decoder.waits)
        starts = [self.text.find(string, max(before + 1 - len(string), 0)) for string in self.strings]
        self.found = min((start for start in starts if start >= 0), default=None)
        return self.found is not None

    @property
    def num_certain(self) -> int:
        """Characters of the text that no string, found or to come, holds any part of."""
        if self.found is not None:
            return self.found
        longest = max(map(len, self.strings), default=0)
        starts = range(max(len(self.text) + 1 - longest, 0), len(self.text))
        return next((s for s in starts if any(x.startswith(self.text[s:]) for x in self.strings)), len(self.text))

    def settled(self) -> int:
        """How many of the tokens are whole characters of those."""
        return bisect_right(self._ends, self.num_certain)

    def rest(self) -> str:
        """What stands between the settled tokens and the string that was found."""
        settled = self.settled()
        return self.text[self._ends[settled - 1] if settled else 0 : self.found]
