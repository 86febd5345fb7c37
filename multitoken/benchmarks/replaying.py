"""Wall clock of drafting at sizes whose trained weights are not at hand: random weights, replayed acceptance.

Weights do not change how long a step takes, only how often drafts come true. So drafts are made and verified as ever,
and what verifying finds is replaced: of each draft as many tokens are accepted as a trained model accepted.

B texts, R rows of a pass.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lmbase.modeling.trunk import random_config
from lmbase.report.rows import read_metrics
from multitoken.benchmarks.measuring import Way, expanded
from multitoken.configuration_multitoken import MultiTokenLMConfig
from multitoken.draft_loop import DraftLoop, Read
from multitoken.draft_tree import DraftTree
from multitoken.multi_token_lm import MultiTokenLM
from multitoken.transitions import Ahead

FIRST_WORD = 4  # below are special tokens


class ReplayedLM(MultiTokenLM):
    """A model with random weights that accepts as many drafts as it is told."""

    _counts: Iterator[int] = itertools.repeat(0)

    def replay(self, counts: Sequence[int]) -> None:
        """Accept so many tokens of the drafts to come, in turn, over and over; fewer where a draft is shorter."""
        self._counts = itertools.cycle(counts)

    def draft_loop(self, *args) -> DraftLoop:
        return ReplayedLoop(self._counts, *args)


class ReplayedLoop(DraftLoop):
    """Drafts are made and verified as ever, and then what the model chose is replaced.

    Args:
        counts: draft tokens accepted in each pass, without end; fewer where a draft is shorter.
    """

    def __init__(self, counts: Iterator[int], *args):
        super().__init__(*args)
        self.counts = counts

    def _choose(self, read: Read, guesses: list[list[list[int]]]) -> tuple[list[list[int]], Ahead]:
        chosen, heads = super()._choose(read, guesses)
        return [self.replayed(b, between, chosen[b]) for b, between in enumerate(guesses)], heads

    def replayed(self, b: int, between: list[list[int]], chosen: list[int]) -> list[int]:
        """What is to be chosen after each row (R,) instead of `chosen`: the first draft token below each row of a path,
        then a token that was not drafted. Where nothing was drafted it is the model's choice."""
        if len(between) == 1:
            return chosen
        drafted, children = [path[-1] if path else 0 for path in between], self.guessed.children
        row, count, chosen = 0, next(self.counts), [FIRST_WORD] * len(drafted)
        while count > 0 and children[row] and drafted[children[row][0]] != self.reader.end:
            following = children[row][0]
            chosen[row] = drafted[following]
            row, count = following, count - 1
        below = {drafted[child] for child in children[row]}
        chosen[row] = next(token for token in itertools.count(FIRST_WORD) if token not in below)
        return chosen


@dataclass(frozen=True)
class Drafts:
    """What a trained model accepted of its draft tokens, by way of drafting."""

    model: str  # its name
    options: dict[str, Any]  # what its configuration says of its heads
    ways: list[Way]


def read_acceptance(path: str, seed: int = 0) -> Drafts:
    """From the metrics.json that `sllm drafting` wrote, every way that it drafted in, texts one by one; counts are in
    random order. `auto` replays what its longest draft found.

    Raises:
        ValueError: another recipe's file.
    """
    rows = [
        row
        for row in read_metrics(path)["rows"]
        if row.protocol == "drafting" and row.extra.get("accepted_counts") and row.extra.get("batch_size") == 1
    ]
    fixed = [row for row in rows if isinstance(row.extra["num_draft"], int)]
    chains = [row for row in fixed if not row.extra.get("draft_tree")]
    if not chains:
        raise ValueError(
            f"acceptance_from={path!r}: no drafts of single texts in it; give the folder or the metrics.json that "
            "`sllm drafting` wrote, with 1 among its batch_size."
        )
    longest = max(chains, key=lambda row: row.extra["num_draft"])
    ways = []
    for row in rows:
        paths, source = row.extra.get("draft_tree"), row
        if row.extra["num_draft"] == "auto":
            source = next((other for other in fixed if paths and other.extra.get("draft_tree") == paths), longest)
        counts = expanded(source.extra["accepted_counts"])
        random.Random(seed).shuffle(counts)
        tree = DraftTree(tuple(map(tuple, paths))) if paths else None
        ways.append(Way(row.extra["way"], row.extra["num_draft"], tree, counts))
    options = dict(num_future_tokens=longest.extra["num_draft"])
    return Drafts(longest.model, options | dict(draft_transitions=bool(longest.extra.get("draft_transitions"))), ways)


def new_replayed(size: str, drafts: Drafts, vocab_size: int, seed: int) -> ReplayedLM:
    """As many heads on a model of a size as `MultiTokenLM.from_lm` would set: head 1 is its last block, the others come
    on top."""
    config = MultiTokenLMConfig.matching(random_config(f"random:{size}", vocab_size=vocab_size, max_positions=2048), 1)
    for name, value in drafts.options.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    return ReplayedLM(config)
