"""Windows over texts that are longer than what a model reads at once, the same for every model.

For scoring they overlap by half, and each unit (a token, a sentence) is scored once; for training they do not overlap.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """The model reads units [start, stop) of a text; of these, units [scored, stop) are scored here."""

    start: int
    stop: int
    scored: int
    parts: tuple["Window", ...] = ()  # of a single unit that is scored in parts: windows over its own tokens


def windows(length: int, size: int, first_scored: int = 0) -> list[Window]:
    """Windows of at most `size` units over a text of `length` units.

    The first is scored whole; each later one starts half a window further on and scores what is new. Units before
    `first_scored` are context: only read, as many of them as fit beside half a window of scored ones.
    """
    if size < 1:
        raise ValueError(f"A window of {size} units holds nothing; choose at least 1.")
    step = max(size // 2, 1)
    stop = min(max(size, first_scored + step), length)
    found = [Window(max(0, stop - size), stop, first_scored)]
    while found[-1].stop < length:
        scored = found[-1].stop
        found.append(Window(scored + step - size, min(scored + step, length), scored))
    return found


def training_windows(length: int, size: int) -> list[tuple[int, int]]:
    """Windows for training, as (start, stop) pairs: without overlap, each unit in one of them."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def sentence_windows(tokens_before: list[int], token_windows: list[Window], max_sentences: int) -> list[Window]:
    """Windows in sentences that see no earlier text than the windows of the token-level baseline do.

    A sentence is scored in the token window that scores its last token, so that none of its tokens sees an earlier
    sentence from before that window. One that begins before its token window reads no other sentence, is read by none,
    and is scored in parts: in each token window what that window reaches of it.

    Args:
        tokens_before: (S+1,) how many tokens come before each sentence; the last entry is the text's length.
        token_windows: the baseline's windows over the same tokens.
        max_sentences: sentences of a window, at most.
    """
    found, sentence = [], 0
    num_sentences = len(tokens_before) - 1
    if num_sentences == 0:  # an empty text has an end, which is scored, too
        return [Window(0, 0, 0)]
    for number, window in enumerate(token_windows):
        scored = sentence
        while sentence < num_sentences and tokens_before[sentence + 1] <= window.stop:
            sentence += 1
        if sentence == scored:
            continue
        if tokens_before[scored] < window.start:  # only the first can: the others begin after the window before ended
            parts = _parts(tokens_before[scored], tokens_before[scored + 1], token_windows[: number + 1])
            found.append(Window(scored, scored + 1, scored, parts))
            scored += 1
        earliest = scored
        while earliest > 0 and tokens_before[earliest - 1] >= window.start:
            earliest -= 1
        while scored < sentence:  # more short sentences than a window holds: scored in turns
            stop = min(sentence, max(scored + max(max_sentences // 2, 1), earliest + max_sentences))
            found.append(Window(max(earliest, stop - max_sentences), stop, scored))
            scored = stop
    assert sentence == num_sentences, "token windows cover the text"
    return found


def _parts(start: int, stop: int, token_windows: list[Window]) -> tuple[Window, ...]:
    """Tokens [start, stop) of a text as the last of these windows see them, counted from `start` on."""
    parts: list[Window] = []
    for window in reversed(token_windows):
        end = min(window.stop, stop) - start
        if window.start <= start:  # holds the beginning
            return (Window(0, end, 0), *reversed(parts))
        parts.append(Window(window.start - start, end, window.scored - start))
    raise AssertionError("the first window holds the beginning of the text")
