"""Which draft tokens are tried together, and which of them are accepted.

A draft is a tree whose root is the newest token of a text, not yet read. A node at depth j is a draft of the j-th token
after the root, made by head j + 1 (head 1's choice at the root is no draft). A chain is a tree without branches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
