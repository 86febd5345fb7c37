"""Where sentences end in a text that is read token after token: told from what has been read, never from what follows.

A rule looks at the text behind a mark ("3." may become "3.14"), so the newest tokens cannot be told yet. Every H =
`window` / 2 tokens the text since the last settled end is cut, and those ends settle that H to 2 H tokens follow. What
is settled stays, and an end that shows later still (`auto` may choose another rule once more has been read) is none. So
whether a token ends a sentence is known before `window` more tokens have been read, or with the next one where `window`
is 1, and depends on those alone. Ends that are told (`told_ends`) are settled at once.
"""

from collections.abc import Iterable

from lmbase.text.processor import SentenceProcessor
from lmbase.text.segmentation import AUTO, SAMPLE, choose_rule


class SentenceEnds:
    """The settled ends of one text.

    Args:
        processor: cuts the text.
        window: tokens after which an end must be settled, at least 1.

    Attributes:
        found: how many tokens had been read with the last one of each settled sentence, rising.
    """

    def __init__(self, processor: SentenceProcessor, window: int):
        self.found: list[int] = []
        self._processor, self._every = processor, max(1, window // 2)
        self._ids: list[int] = []
        self._told = processor.told_ends() if processor.tells_ends else None
        self._chosen: SentenceProcessor | None = None  # by an opening that no further token changes

    def read(self, ids: Iterable[int]) -> None:
        """The next tokens; any ids are taken."""
        for i in ids:
            self._ids.append(i)
            if self._told is not None:
                if self._told.add([i]):
                    self.found.append(len(self._ids))
            elif len(self._ids) % self._every == 0:
                self._settle()

    def _settle(self) -> None:
        position = self.found[-1] if self.found else 0
        for sentence in self._cutter().cut_ids(self._ids[position:]):
            position += len(sentence)
            if position > len(self._ids) - self._every:
                break
            if position > len(self._ids) - 2 * self._every:
                self.found.append(position)

    def _cutter(self) -> SentenceProcessor:
        """The rule that suits a whole text is chosen by its opening, as far as that has been read."""
        own = self._processor
        if own.rule != AUTO:
            return own
        if self._chosen is not None:
            return self._chosen
        opening = own.decode(self._ids[:SAMPLE])
        cutter = SentenceProcessor(own.tokenizer, choose_rule(opening), own.max_sentence_tokens, own.punkt)
        if len(opening) > SAMPLE:  # by a character, whose last token may have been half of it
            self._chosen = cutter
        return cutter
