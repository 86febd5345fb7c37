"""Drafts that are copied out of the text itself: no heads, no second model."""

from collections.abc import Iterable, Sequence

from transformers import GenerationConfig

LONGEST_MATCH = 2  # tokens, as Transformers has it


class PromptLookup:
    """Guesses that what followed the newest tokens of a text the last time will follow them again, as Transformers'
    prompt lookup does (https://github.com/apoorvumang/prompt-lookup-decoding).

    The longest match counts and of equally long ones the latest, where Transformers takes the first: what was just
    said is likelier to come again. Where the text ends in a loop, the loop is followed further than the text goes.

    Args:
        longest_match: newest tokens that are looked up, at most.
        end: an id that nothing is copied across, such as a sentence's end mark.
    """

    def __init__(self, longest_match: int = LONGEST_MATCH, end: int | None = None):
        self.longest_match, self.end = longest_match, end
        self.ids: list[int] = []
        self.after: dict[tuple[int, ...], int] = {}  # where the token stands that followed these ids last

    def extend(self, ids: Iterable[int]) -> None:
        """The text goes on with these."""
        for token in ids:
            for size in range(1, min(self.longest_match, len(self.ids)) + 1):
                self.after[tuple(self.ids[-size:])] = len(self.ids)
            self.ids.append(token)

    def guess(self, num_tokens: int) -> list[int]:
        """So many next tokens, fewer before an end, none where nothing repeats."""
        for size in range(min(self.longest_match, len(self.ids)), 0, -1):
            start = self.after.get(tuple(self.ids[-size:]))
            if start is not None:
                period = len(self.ids) - start  # what repeats itself up to here is taken to go on so
                copied = [self.ids[start + i % period] for i in range(num_tokens)]
                return copied[: copied.index(self.end)] if self.end in copied else copied
        return []


def copied_guesses(
    lookups: Sequence[PromptLookup], alive: Iterable[bool], num_tokens: int, fill: int
) -> list[list[int]]:
    """Guesses for each text that is alive, all as many as the longest; what is missing is `fill`, a wrong guess."""
    found = [lookup.guess(num_tokens) if living else [] for lookup, living in zip(lookups, alive, strict=True)]
    longest = max(map(len, found))
    return [ids + [fill] * (longest - len(ids)) for ids in found]


def make_lookups(
    config: GenerationConfig, texts: Iterable[Iterable[int]], end: int | None = None
) -> list[PromptLookup]:
    """One that has read each text, if the configuration asks for prompt lookup; else none."""
    if config.prompt_lookup_num_tokens is None:
        return []
    longest = LONGEST_MATCH if config.max_matching_ngram_size is None else config.max_matching_ngram_size
    lookups = []
    for text in texts:
        lookups.append(PromptLookup(longest, end))
        lookups[-1].extend(text)
    return lookups
