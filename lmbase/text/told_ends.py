"""Ends of sentences that follow from the text so far, so that no model has to predict them: whoever reads or writes
tokens knows with each of them whether it ended a sentence. They end with characters.

N tokens of a text.
"""

import codecs
from collections.abc import Iterable

import numpy as np
from transformers import PreTrainedTokenizerFast

from lmbase.text.codec import codec_of
from lmbase.text.cut_stream import CutStream
from lmbase.text.learned import LearnedCuts
from lmbase.text.places import character_classes
from lmbase.text.segmentation import LEARNED

TELLING_RULES = (LEARNED,)
SPARE = 3  # tokens that a character may still need


class ToldEnds:
    """Reads one text token after token.

    Args:
        parameters: what rule `learned` learned.
        longest: tokens of a sentence at most: it ends with the last character that surely fits.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, parameters: dict | None, longest: int):
        self._codec = codec_of(tokenizer)
        # One character for each byte that belongs to none; it comes when that is known.
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._cuts = CutStream(LearnedCuts.of(parameters))
        self._longest, self._length = longest, 0

    def add(self, ids: Iterable[int]) -> bool:
        """Whether the last of these ids ends a sentence."""
        told = False
        for i in ids:
            self._length += 1
            read = self._characters.decode(self._codec.known_bytes([i]))
            self._cuts.read(read)
            whole = self._characters.getstate()[0] == b""
            told = bool(read) and whole and self._cuts.cuts_here()
            told = told or self._length >= (self._longest - SPARE if whole else self._longest)
            self._length *= not told
        return told


def told_sentences(ids: Iterable[int], told: ToldEnds) -> list[list[int]]:
    """Sentences of a text's ids."""
    sentences: list[list[int]] = [[]]
    for i in ids:
        sentences[-1].append(i)
        if told.add([i]):
            sentences.append([])
    return sentences if sentences[-1] or len(sentences) == 1 else sentences[:-1]


def told_stops(text: str, token_ends: np.ndarray, parameters: dict | None, longest: int) -> np.ndarray:
    """Of a whole text the same, all at once: how many of its tokens each sentence and those before it have.

    Args:
        token_ends: (N,) how many bytes each token and all before it have.
        parameters, longest: as `ToldEnds` has them.
    """
    offsets, whole = whole_tokens(text, token_ends)
    cuts = list(LearnedCuts.of(parameters).cuts(text, offsets))
    stops = np.union1d(whole[np.searchsorted(offsets, cuts)], len(token_ends))
    starts = np.concatenate([np.zeros(1, stops.dtype), stops[:-1]])
    more = []
    long = stops - starts > longest - SPARE
    for start, stop in zip(starts[long].tolist(), stops[long].tolist(), strict=True):
        while stop - start > longest - SPARE:
            start = int(whole[np.searchsorted(whole, start + longest - SPARE)])
            more.append(start)
    return np.union1d(stops, np.array(more, stops.dtype))


def whole_tokens(text: str, token_ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of those that end with a character: how many characters, and how many tokens, the text has up to their end."""
    if text.isascii():
        return token_ends, np.arange(1, len(token_ends) + 1)
    ends = np.cumsum(character_classes(text)[1])
    _, characters, tokens = np.intersect1d(ends, token_ends, return_indices=True)
    return characters + 1, tokens + 1
