"""Guesses that know the guess before them, at no further product with the vocabulary.

Heads that look ahead guess apart from each other: each says what is likely at its place, whatever stands before it. A
transition makes of the guess before a place, and of the head's state there, a vector; its products with the head's best
candidates are added to their logits. Sequential drafting heads are those of Hydra (arXiv 2402.05109); there each reads
the vocabulary once more, here all were read in the pass that verifies.

B texts, d guesses one after another, P nodes of a draft tree's level, m candidates, D width and V rows of the
vocabulary's table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbase.modeling.decoding import Sampler
from multitoken.draft_tree import DraftTree

NUM_CANDIDATES = 64  # of a head, judged again; of a 7M model's own choices 85% are among head 2's, 77% among head 4's


@dataclass
class Ahead:
    """What k drafting heads say at some places (..): `states` (.., k, D) as the product with the vocabulary reads them,
    and `logits` (.., k, V)."""

    states: Tensor
    logits: Tensor

    def at(self, texts: Sequence[int], rows: Sequence[int]) -> "Ahead":
        """Of (B, R) places one row of each text."""
        return Ahead(self.states[texts, rows], self.logits[texts, rows])


@dataclass
class Guessers:
    """What d drafting heads guess with, beside what they said."""

    transitions: nn.ModuleList  # of each head, or empty: the heads guess apart
    embed: Callable[[Tensor], Tensor]  # token ids (..) -> (.., D)
    tables: Sequence[Tensor]  # (V, D) of each head


class Transition(nn.Module):
    """From the token before a head's guess to what is added to the head's state; nothing in the beginning.

    Args:
        width: D.
    """

    def __init__(self, width: int):
        super().__init__()
        self.token_proj = nn.Linear(width, width // 2)
        self.state_proj = nn.Linear(width, width // 2, bias=False)
        self.out_proj = nn.Linear(width // 2, width)
        self.out_proj.starts_silent = True  # type: ignore[assignment]

    def forward(self, embeds: Tensor, states: Tensor) -> Tensor:
        """Embeddings of tokens and states of the head (..., D) -> (..., D). Both are scaled to a length of sqrt(D)."""
        embeds, states = (F.rms_norm(x, x.shape[-1:], eps=1e-6) for x in (embeds, states))
        return self.out_proj(F.silu(self.token_proj(embeds) + self.state_proj(states)))


def judged_again(transition: nn.Module, embeds: Tensor, states: Tensor, values: Tensor, candidates: Tensor) -> Tensor:
    """Logits of a head's candidates after each of P tokens.

    Args:
        embeds: (B, P, D) of the tokens.
        states: (B, D) of the head, as its product with the table reads it.
        values: (B, m) the candidates' logits.
        candidates: (B, m, D) their rows of the table.

    Returns:
        (B, P, m)
    """
    added = transition(embeds, states[:, None]) @ candidates.transpose(1, 2)  # (B,P,m)
    return values[:, None].float() + added.float()


def ranked_after(transition: nn.Module, embeds: Tensor, states: Tensor, logits: Tensor, table: Tensor) -> Tensor:
    """Candidates (N, m) of a head at N places, best first, after known tokens.

    Args: embeds, states: (N, D); logits: (N, V) of the head; table: (V, D).
    """
    top = logits.topk(min(NUM_CANDIDATES, logits.shape[1]))
    added = (transition(embeds, states) @ table.T).gather(1, top.indices)
    return top.indices.gather(1, (top.values.float() + added.float()).argsort(1, descending=True))


def best_candidates(
    transitions: nn.ModuleList, j: int, embeds: Tensor, states: Tensor, logits: Tensor, table: Tensor, num_ranks: int
) -> Tensor:
    """Tokens (N, num_ranks) that guess j = 0, 1 .. names first: after known tokens, where there are transitions.

    Args: as for `ranked_after`.
    """
    if not transitions:
        return logits.topk(num_ranks).indices
    return ranked_after(transitions[j], embeds, states, logits, table)[:, :num_ranks]


def sequential_guesses(
    levels: Sequence[Sequence[tuple[int, int]]],
    newest: Tensor,
    heads: Ahead,
    guessers: Guessers,
    scores: Callable[[int, Tensor, Tensor], Tensor],
) -> Tensor:
    """Tokens (B, R-1) of a tree's nodes below its root; a rank counts a head's candidates after the node's parent.

    Args:
        levels: `DraftTree.levels`.
        newest: (B,) the tokens at the root.
        heads: (B, d, ..).
        guessers: with transitions.
        scores: of guess j = 0, 1 .., from logits (B, P, m) and candidates' ids (B, m); the largest are the choices.
    """
    top = heads.logits.topk(min(NUM_CANDIDATES, heads.logits.shape[-1]))  # (B,d,m)
    tokens = newest[:, None]  # (B,P) of a level
    guesses = []
    for j, level in enumerate(levels):
        ids = top.indices[:, j]  # (B,m)
        rows, embeds = guessers.tables[j][ids], guessers.embed(tokens)
        judged = judged_again(guessers.transitions[j], embeds, heads.states[:, j], top.values[:, j], rows)
        num_ranks = min(1 + max(rank for _, rank in level), ids.shape[1])
        best = scores(j, judged, ids).topk(num_ranks).indices  # (B,P,ranks)
        parents, ranks = ([node[k] for node in level] for k in (0, 1))
        # A rank beyond the candidates takes the last: a guess that is made twice.
        tokens = ids.gather(1, best[:, parents, [min(rank, num_ranks - 1) for rank in ranks]])  # (B,P')
        guesses.append(tokens)
    return torch.cat(guesses, dim=1)


def draft(
    tree: DraftTree,
    newest: Sequence[int],
    heads: Ahead,
    guessers: Guessers,
    sampler: Sampler,
    places: Sequence[tuple[int, int]],
) -> Tensor:
    """Tokens (B, R-1) of the tree's nodes below its root, by heads that guess apart or, with transitions, in sequence.

    Args:
        tree, newest: what is guessed, after which tokens (B,).
        heads: (B, d, ..), d at least the tree's depth.
        places: (B,) each text and the number of its next token, which head 2 guesses.
    """
    if guessers.transitions:
        scores = lambda j, logits, ids: sampler.candidate_scores(logits, ids, [(b, n + j) for b, n in places])  # noqa: E731
        root = torch.tensor(newest, device=heads.logits.device)
        return sequential_guesses(tree.levels, root, heads, guessers, scores)
    rows = [(b, n + depth) for b, n in places for depth in range(tree.depth)]
    logits = heads.logits[:, : tree.depth]  # (B,depth,V)
    best = sampler.scores(logits.flatten(0, 1), rows).topk(tree.num_ranks).indices.view(*logits.shape[:2], -1)
    return best[:, [len(path) - 1 for path in tree.nodes[1:]], [path[-1] for path in tree.nodes[1:]]]
