"""Drafting and verifying, apart from any model: trees of candidates, what is accepted, when it pays.

A draft is a tree whose root is the newest token of a text, not yet read. A node at depth j guesses the j-th token after
the root, so it is made by head j + 1 (head 1's choice at the root is no guess). A chain is a tree without branches.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class DraftTree:
    """Which candidates are guessed together.

    Args:
        paths: one per node: the ranks of the candidates from the root to it. (0,) is head 2's first choice, (0, 2)
            head 3's third choice after it.

    Raises:
        ValueError: a path that is empty, negative or double, or without the path before it.
    """

    paths: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        known: set[tuple[int, ...]] = {()}
        for path in sorted(self.paths, key=lambda path: (len(path), path)):
            if not path or min(path) < 0:
                raise ValueError(
                    f"The path {list(path)} of a draft tree: one or more ranks, counted from 0, are needed."
                )
            if path in known:
                raise ValueError(f"The path {list(path)} is twice in the draft tree.")
            if path[:-1] not in known:
                raise ValueError(f"The path {list(path)} of a draft tree hangs in the air: add {list(path[:-1])}.")
            known.add(path)

    @classmethod
    def chain(cls, num_drafts: int) -> "DraftTree":
        """The first choice of each of `num_drafts` heads."""
        return cls(tuple((0,) * depth for depth in range(1, num_drafts + 1)))

    @classmethod
    def from_acceptance(cls, rates: Sequence[Sequence[float]], num_nodes: int) -> "DraftTree":
        """The tree of `num_nodes` nodes that accepts most, if heads err independently of each other.

        Args:
            rates: for each depth and rank, how often that candidate is what the model then chooses.
        """
        chosen: dict[tuple[int, ...], float] = {(): 1.0}
        while len(chosen) <= num_nodes:
            best, best_value = None, 0.0
            for path, value in chosen.items():
                if len(path) == len(rates):
                    continue
                for rank, rate in enumerate(rates[len(path)]):
                    if value * rate > best_value and (*path, rank) not in chosen:
                        best, best_value = (*path, rank), value * rate
            if best is None:
                break
            chosen[best] = best_value
        return cls(tuple(path for path in chosen if path))

    @cached_property
    def nodes(self) -> tuple[tuple[int, ...], ...]:
        """The root and all paths, parents before children: row r of a forward pass reads node r."""
        return ((), *sorted(self.paths, key=lambda path: (len(path), path)))

    @cached_property
    def depth(self) -> int:
        return max(map(len, self.nodes))

    @cached_property
    def num_ranks(self) -> int:
        """Candidates wanted of a head, at most."""
        return 1 + max((max(path) for path in self.paths), default=0)

    @cached_property
    def children(self) -> list[list[int]]:
        """For each row the rows of its children."""
        place = {path: row for row, path in enumerate(self.nodes)}
        found: list[list[int]] = [[] for _ in self.nodes]
        for path in self.nodes[1:]:
            found[place[path[:-1]]].append(place[path])
        return found

    @cached_property
    def levels(self) -> list[list[tuple[int, int]]]:
        """By depth, from 1 on, its nodes in the order of rows: the number of the parent in the level above, and the
        rank."""
        above: list[tuple[int, ...]] = [()]
        found: list[list[tuple[int, int]]] = []
        for depth in range(1, self.depth + 1):
            level = [path for path in self.nodes if len(path) == depth]
            found.append([(above.index(path[:-1]), path[-1]) for path in level])
            above = level
        return found

    @cached_property
    def lineages(self) -> list[list[int]]:
        """For each row the rows on the way to it, the root's left out and its own the last."""
        place = {path: row for row, path in enumerate(self.nodes)}
        return [[place[path[:depth]] for depth in range(1, len(path) + 1)] for path in self.nodes]

    @cached_property
    def visible(self) -> Tensor:
        """(R, R) bool: row r reads row s, which is itself or on the way to it."""
        return torch.tensor([[s == 0 or s in lineage for s in range(len(self.nodes))] for lineage in self.lineages])

    def pruned(self, depth: int) -> "DraftTree":
        """Without the nodes below `depth`."""
        return self if depth >= self.depth else DraftTree(tuple(path for path in self.paths if len(path) <= depth))


def verify(tree: DraftTree, draft_ids: Sequence[int], chosen_ids: Sequence[int]) -> list[int]:
    """The rows of a draft that the model itself would have written, the root's first.

    A node is accepted if its token is the one that the model chose at its parent, which was accepted: so a text is what
    the model writes token by token, whatever was guessed. The token chosen at the last accepted row is new, too.

    Args:
        draft_ids: (R,) the tokens of the tree's rows, `tree.nodes`.
        chosen_ids: (R,) the model's choice after each of them.
    """
    accepted = [0]
    while True:
        wanted = chosen_ids[accepted[-1]]
        following = [row for row in tree.children[accepted[-1]] if draft_ids[row] == wanted]
        if not following:
            return accepted
        accepted.append(following[0])


def check_num_draft(num_draft: int | str, num_heads: int) -> tuple[int, bool]:
    """Heads to write with at most, and whether fewer are taken where that pays.

    Raises:
        ValueError: neither "auto" nor a number of heads that there are.
    """
    if num_draft == "auto":
        return num_heads, True
    if isinstance(num_draft, bool | str) or not 1 <= num_draft <= num_heads:
        raise ValueError(
            f"num_draft={num_draft!r}: this model has {num_heads} head{'s' * (num_heads > 1)}, so choose 1 (plain "
            f"decoding){f' to {num_heads}' * (num_heads > 1)}, or 'auto'."
        )
    return num_draft, False


def check_drafts(
    num_draft: int | str,
    tree: DraftTree | Sequence[Sequence[int]] | None,
    num_heads: int,
    vocab_size: int,
    num_copied: int | None = None,
) -> tuple[DraftTree, bool]:
    """The largest draft that may be made, and whether less is taken where that pays; without a tree a chain.

    Args:
        num_copied: guesses that are copied out of the text instead of made by heads.

    Raises:
        ValueError: heads or candidates that are not there, a tree that is none, or heads beside copied guesses.
    """
    heads, automatic = check_num_draft(num_draft, num_heads)
    if num_copied is not None:
        if tree is not None or num_draft not in (1, "auto"):
            raise ValueError(
                f"prompt_lookup_num_tokens={num_copied} copies guesses, num_draft={num_draft!r} or a tree has heads "
                "make them: give one of the two (with copies num_draft is 1, or 'auto' to copy as long as it pays)."
            )
        return DraftTree.chain(num_copied), automatic
    if tree is None:
        return DraftTree.chain(heads - 1), automatic
    paths = tree if isinstance(tree, DraftTree) else DraftTree(tuple(tuple(path) for path in tree))
    if paths.depth > num_heads - 1:
        raise ValueError(
            f"The draft tree is {paths.depth} deep, which takes {paths.depth + 1} heads; this model has {num_heads}."
        )
    if paths.num_ranks > vocab_size:
        raise ValueError(f"The draft tree names candidate {paths.num_ranks - 1} of {vocab_size}.")
    return paths.pruned(heads - 1), automatic


@dataclass
class SpeculationStatistics:
    """What drafting brought, over all texts of a call. The forward pass over the prompts is not counted."""

    num_forwards: int = 0  # of the model over a text's newest tokens; one for each text that was alive
    num_tokens: int = 0  # written by them
    offered: list[int] = field(default_factory=list)  # at depth j (from 1): drafts whose predecessor was accepted
    accepted: list[int] = field(default_factory=list)
    break_even: float | None = None  # tokens per forward above which drafting pays; None where it was not measured

    @property
    def tokens_per_forward(self) -> float:
        return self.num_tokens / self.num_forwards if self.num_forwards else 0.0

    @property
    def acceptance(self) -> list[float]:
        """P(draft accepted | the draft before it was), by depth."""
        return [a / o if o else 0.0 for a, o in zip(self.accepted, self.offered, strict=True)]

    def add(self, depth: int, num_accepted: int, num_tokens: int) -> None:
        """One forward pass over a draft of `depth` for one text."""
        self.num_forwards += 1
        self.num_tokens += num_tokens
        for counts, reached in ((self.offered, min(num_accepted + 1, depth)), (self.accepted, num_accepted)):
            counts += [0] * (depth - len(counts))
            for position in range(reached):
                counts[position] += 1

    def include(self, other: "SpeculationStatistics") -> None:
        """Add what another call's drafts brought."""
        self.num_forwards += other.num_forwards
        self.num_tokens += other.num_tokens
        for ours, theirs in ((self.offered, other.offered), (self.accepted, other.accepted)):
            ours += [0] * (len(theirs) - len(ours))
            for position, count in enumerate(theirs):
                ours[position] += count


class DraftLength:
    """Chooses how many heads to draft with from what it sees: accepted tokens against the cost of a step, which reads
    guesses that were made in the step before and makes as many for the next. Steps that begin or end drafting do only
    one of the two and are not recorded.

    Both are measured while writing: a few plain steps and a few with the longest draft first, then the length with the
    most tokens per second. Where drafting loses, steps are plain ones, but for a try now and then, at ever longer
    intervals: that is the guard.
    """

    NUM_PROBES = 3  # steps of each kind before the first decision; the first of a kind warms up and is not timed
    FIRST_WAIT = 32  # plain steps before a losing draft is tried again; doubled each time
    LONG_WAIT = 128  # the same where even a draft that is accepted whole would lose
    RECENT = 32  # steps over which costs are taken
    MEMORY = 0.95  # of acceptance, per step with a draft
    PRIOR = 0.25  # successes taken for granted; with 0.5 three failures did not end what cost a tenth of a step

    def __init__(self, max_drafts: int):
        self.max_drafts = max_drafts
        self.seconds: dict[int, list[float]] = {}  # by length
        self.offered = [0.0] * max_drafts
        self.accepted = [0.0] * max_drafts
        self.wait, self.waited, self.num_tries = self.FIRST_WAIT, 0, 0
        self.trying: int | None = None  # a losing draft that is tried again, until it is recorded

    def choose(self) -> int:
        """Drafts for the next step."""
        if self.max_drafts == 0:
            return 0
        for length in (0, self.max_drafts):
            if len(self.seconds.get(length, [])) < self.NUM_PROBES and not self._hopeless():
                return length
        if self.trying is not None:
            return self.trying
        best = max(range(self.max_drafts + 1), key=lambda length: self.expected_tokens(length) / self.cost(length))
        if best:
            self.wait, self.waited = self.FIRST_WAIT, 0
        elif self.waited >= (max(self.wait, self.LONG_WAIT) if self._hopeless() else self.wait):
            self.wait, self.waited, self.num_tries = 2 * self.wait, 0, self.num_tries + 1
            self.trying = 1 + (self.num_tries - 1) % self.max_drafts  # each length in turn: its cost is only guessed
            return self.trying
        return best

    def record(self, length: int, num_accepted: float, seconds: float) -> None:
        """One step: `num_accepted` is the mean over the texts of a batch."""
        self.waited += length == 0
        self.seconds.setdefault(length, []).append(seconds)
        del self.seconds[length][: -self.RECENT]
        if length == self.trying and len(self.seconds[length]) > 1:  # the first step of a kind is not timed
            self.trying = None
        for position in range(length):
            share = min(max(num_accepted - position + 1, 0.0), 1.0)  # of the texts whose draft got so far
            self.offered[position] = self.MEMORY * self.offered[position] + share
            accepted = min(max(num_accepted - position, 0.0), 1.0)
            self.accepted[position] = self.MEMORY * self.accepted[position] + accepted

    def expected_tokens(self, length: int) -> float:
        tokens = probability = 1.0
        for position in range(length):
            # A little more success than was seen: where a draft is cheap, a few failures do not rule it out.
            probability *= (self.accepted[position] + self.PRIOR) / (self.offered[position] + 1.0)
            tokens += probability
        return tokens

    def cost(self, length: int) -> float:
        """Seconds of a step; lengths that were never tried lie on the line between those that were."""
        if len(self.seconds.get(length, [])) > 1:
            return statistics.median(self.seconds[length][1:])
        plain, longest = self.cost(0), self.cost(self.max_drafts)
        return plain + (longest - plain) * length / self.max_drafts

    def _hopeless(self) -> bool:
        """No draft would pay, were it always accepted."""
        if self.break_even is None:
            return False
        return all(length + 1 <= self.cost(length) / self.cost(0) for length in range(1, self.max_drafts + 1))

    @property
    def break_even(self) -> float | None:
        """Tokens per forward at which a step with the longest draft costs as much as plain steps."""
        if any(len(self.seconds.get(length, [])) < 2 for length in (0, self.max_drafts)):
            return None
        return self.cost(self.max_drafts) / self.cost(0)
