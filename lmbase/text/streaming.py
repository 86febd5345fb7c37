"""Text of ids as they are written: at once, each byte looked at once, and never half a character."""

import codecs
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerFast

from lmbase.text.codec import codec_of


class TextDecoder:
    """Ids -> text, part by part. Bytes of a character that is not whole yet are held back."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._codec = codec_of(tokenizer)
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, ids: Iterable[int]) -> str:
        """What the text has more with these ids; special tokens, and ids for which there is no token, are left out."""
        return self._characters.decode(self._codec.known_bytes(ids))

    @property
    def waits(self) -> bool:
        """Whether bytes are held back."""
        return self._characters.getstate()[0] != b""


def written_text(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int], before: Iterable[int] = ()) -> str:
    """What ids add to the text of those before them, without a last character that is not whole."""
    decoder = TextDecoder(tokenizer)
    decoder.add(before)
    return decoder.add(ids)


class TextStream:
    """A streamer, as Transformers' `generate` and those here take it, that shows all that it is handed at once.

    Transformers' own TextStreamer holds a word back until the next one begins, so that the end of a sentence waits, and
    text without spaces altogether, and it decodes a line from its beginning with each token.

    Args:
        show: called with each part of the text, the prompt first; default: standard output.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, show: Callable[[str], Any] | None = None):
        self.tokenizer, self.decoder = tokenizer, TextDecoder(tokenizer)
        self.show = partial(print, end="", flush=True) if show is None else show

    def put(self, value: Any) -> None:
        """Args: value: tensor of the next ids."""
        if text := self.decoder.add(value.flatten().tolist()):
            self.show(text)

    def end(self) -> None:
        """The text is over; another may follow."""
        self.decoder = TextDecoder(self.tokenizer)
        self.show("\n")
