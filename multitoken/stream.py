"""What a streamer of Transformers' is handed while a text is written; and drafts, for one that can show them."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, TextStreamer

from lmbase.text.stop_strings import StopStrings
from lmbase.text.tokenizers import encode_text
from multitoken.draft_loop import Stretch


@runtime_checkable
class DraftStreamer(Protocol):
    """A streamer that is told of drafts, too: of those of a pass twice, before `put` gets the pass's tokens."""

    def put(self, value: Tensor) -> None:
        """The prompt's ids, then new ones."""

    def end(self) -> None:
        """The text is over."""

    def put_draft(self, ids: list[int], num_accepted: int | None) -> None:
        """
        Args:
            ids: draft tokens one after another; of a tree its first branch and, once verified, the accepted one.
            num_accepted: how many of them, from the first, are part of the text; None before the pass that tells.
        """


class Stream:
    """Hands one text to a streamer, if there is one, and holds back what may turn out to be part of a stop string.

    Transformers' text streamers show a word when a space follows, which in some scripts none ever does: after each part
    they are made to show what they hold, as far as its characters are whole.

    Args:
        strings: that may end the text; they follow it themselves.
        tokenizer: what they are spelled with.
    """

    def __init__(
        self,
        streamer: Any,
        strings: StopStrings | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
    ):
        self.streamer, self.strings, self.tokenizer = streamer, strings, tokenizer
        self.new: list[int] = []
        self.num_shown = 0
        self.stretch: Stretch | None = None
        self.num_followed = 0  # tokens of the stretch

    @property
    def shows_drafts(self) -> bool:
        return isinstance(self.streamer, DraftStreamer)

    def follow(self, stretch: Stretch) -> None:
        """Show what the stretch, or the next one, has more than last time."""
        if self.streamer is None:
            return
        if stretch is not self.stretch:
            self.stretch, self.num_followed = stretch, 0
        self.show(stretch.new[self.num_followed :])
        self.num_followed = len(stretch.new)

    def show(self, ids: Sequence[int]) -> None:
        """These ids are new."""
        self.new += ids
        self._show_until(len(self.new) if self.strings is None else self.strings.settled())

    def close(self) -> None:
        """Nothing more is written: show what was held back."""
        if self.strings is None or self.strings.found is None:
            self._show_until(len(self.new))
        elif self.streamer is not None:
            self._show_until(self.strings.settled())
            if rest := self.strings.rest():
                assert self.tokenizer is not None
                self.put(torch.tensor(encode_text(self.tokenizer, rest)))

    def put(self, value: Tensor) -> None:
        """Hand over the prompt, or ids that nothing holds back."""
        if self.streamer is None:
            return
        self.streamer.put(value.cpu())
        if isinstance(self.streamer, TextStreamer):
            show_held(self.streamer)

    def put_draft(self, ids: list[int], num_accepted: int | None) -> None:
        self.streamer.put_draft(ids, num_accepted)

    def _show_until(self, number: int) -> None:
        if number > self.num_shown:
            self.put(torch.tensor(self.new[self.num_shown : number]))
            self.num_shown = number


def show_held(streamer: TextStreamer) -> None:
    """Make a text streamer of Transformers show what it holds, but for a last character that is not whole."""
    text = str(streamer.tokenizer.decode(streamer.token_cache, **streamer.decode_kwargs))
    if len(text) > streamer.print_len and not text.endswith("\ufffd"):
        streamer.on_finalized_text(text[streamer.print_len :])
        streamer.print_len = len(text)
