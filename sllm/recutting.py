"""How much of what was written would be cut otherwise if its text were read anew."""

import codecs
from collections.abc import Iterable
from itertools import accumulate

from lmbase.text.processor import SentenceProcessor


def recut_share(processor: SentenceProcessor, texts: Iterable[tuple[list[list[int]], int, list[int]]]) -> float | None:
    """Written sentences that would become others if their text were cut and tokenised anew; None if there are none.

    Args:
        texts: of each its closed sentences, how many of them a prompt has, and all of its ids.
    """
    written = changed = 0
    for sentences, num_given, ids in texts:
        again = processor.encode(processor.decode(ids)).sentences()
        places = set(zip(_starts(processor, again), map(tuple, again), strict=True))
        own = list(zip(_starts(processor, sentences), map(tuple, sentences), strict=True))[num_given:]
        written += len(own)
        changed += sum(place not in places for place in own)
    return changed / written if written else None


def _starts(processor: SentenceProcessor, sentences: list[list[int]]) -> list[int]:
    """Bytes before each sentence in the decoded text, where broken characters are shown as U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces = map(processor.codec.known_bytes, sentences)  # a padded table has rows that are no token
    return list(accumulate((len(decoder.decode(piece).encode()) for piece in pieces), initial=0))[:-1]
