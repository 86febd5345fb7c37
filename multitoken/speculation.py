"""What a call of `generate` may draft, and what its drafts brought."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral

from multitoken.draft_tree import DraftTree


def check_num_draft(num_draft: int | str, num_heads: int) -> tuple[int, bool]:
    """Heads to write with at most, and whether fewer are taken where that pays.

    Raises:
        ValueError: neither "auto" nor a number of heads that there are.
    """
    if isinstance(num_draft, str) and num_draft == "auto":
        return num_heads, True
    if isinstance(num_draft, bool) or not isinstance(num_draft, Integral) or not 1 <= num_draft <= num_heads:
        raise ValueError(
            f"num_draft={num_draft!r}: this model has {num_heads} head{'s' * (num_heads > 1)}, so choose 1 (plain "
            f"decoding){f' to {num_heads}' * (num_heads > 1)}, or 'auto'."
        )
    return int(num_draft), False


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
    if num_copied is not None:
        if tree is not None or num_draft not in (1, "auto"):
            raise ValueError(
                f"prompt_lookup_num_tokens={num_copied} copies guesses, num_draft={num_draft!r} or a tree has heads "
                "make them: give one of the two (with copies num_draft is 1, or 'auto' to copy as long as it pays)."
            )
        return DraftTree.chain(num_copied), check_num_draft(num_draft, 1)[1]
    heads, automatic = check_num_draft(num_draft, num_heads)
    if tree is None:
        return DraftTree.chain(heads - 1), automatic
    paths = tree if isinstance(tree, DraftTree) else _as_tree(tree)
    if paths.depth > num_heads - 1:
        raise ValueError(
            f"The draft tree is {paths.depth} deep, which takes {paths.depth + 1} heads; this model has {num_heads}."
        )
    if paths.num_ranks > vocab_size:
        raise ValueError(f"The draft tree names candidate {paths.num_ranks - 1} of {vocab_size}.")
    return paths.pruned(heads - 1), automatic


def _as_tree(paths: Sequence[Sequence[int]]) -> DraftTree:
    try:
        return DraftTree(tuple(tuple(path) for path in paths))
    except TypeError as error:
        raise ValueError(f"tree={paths!r:.60}: give paths of ranks, [[0], [0, 0], [1]] for instance.") from error


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
