"""Sentences of many lengths as few matrices whose shapes recur: little padding, and kernels that are made once.

N sentences, L tokens of all of them, T tokens of the longest; n sentences of a group, W columns of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbase.modeling.devices import kernels_of

# Tokens of a group, padding included, in a batch of few. A CPU is as fast on small ones, which waste less; a GPU wants
# large ones.
GROUP_TOKENS = {"cpu": 512}
MOST_TOKENS = 8192
NUM_GROUPS = 8  # about so many at most, or gathering their tokens would cost more than their padding


@dataclass
class Group:
    """Sentences of like length. Those after the first `num_real` only repeat others, to fill up a shape that recurs."""

    index: Tensor  # (n,) which of all sentences
    num_real: int
    ids: Tensor  # (n,W)
    mask: Tensor  # (n,W) True on real tokens
    rows: Tensor  # (n,W) row of each token in the table of embeddings

    @property
    def real(self) -> Tensor:
        """(n,1) True on sentences that are not repeated."""
        return torch.arange(len(self.index), device=self.index.device)[:, None] < self.num_real


@dataclass
class PackedTokens:
    """The tokens of N sentences, embedded once: what many small looks into the vocabulary's table would cost in
    training is a gradient as large as the table for each."""

    embeds: Tensor  # (1+L,D): of the start token, and of all tokens one after another
    rows: Tensor  # (N,T) row of each token in `embeds`

    @classmethod
    def of(cls, embed: torch.nn.Embedding, input_ids: Tensor, attention_mask: Tensor, start_id: int) -> "PackedTokens":
        start = input_ids.new_full((1,), start_id)
        # One row of a batch: what hooks of a table expect, a Trainer's noise (NEFTune) for one.
        embeds = embed(torch.cat([start, input_ids[attention_mask]])[None])[0]
        rows = attention_mask.flatten().cumsum(0).view_as(input_ids)
        return cls(embeds, rows)

    def inputs(self, group: Group) -> Tensor:
        """(n,W,D) of a group's tokens; padding repeats some token."""
        return F.embedding(group.rows, self.embeds)

    def shifted(self, group: Group) -> Tensor:
        """(n,W+1,D) of the start token and a group's tokens."""
        return F.embedding(F.pad(group.rows, (1, 0)), self.embeds)


def length_groups(input_ids: Tensor, attention_mask: Tensor, rows: Tensor, most: int) -> Iterator[Group]:
    """Sentences of like length together, the longest first.

    Args:
        input_ids, attention_mask: (N,T) padded on the right.
        rows: (N,T) `PackedTokens.rows`.
        most: the most tokens of a sentence.

    Raises:
        ValueError: a sentence of more tokens.
    """
    lengths = attention_mask.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    sizes = lengths[order].tolist()
    if sizes and sizes[0] > most:
        raise ValueError(f"A sentence of {sizes[0]} tokens; the model reads at most {most}.")
    missing = max(0, _width(input_ids.shape[1], most) - input_ids.shape[1])
    input_ids, attention_mask, rows = (F.pad(x, (0, missing)) for x in (input_ids, attention_mask, rows))
    large = 1 << (sum(sizes) // NUM_GROUPS).bit_length()  # a power of two, so that shapes recur
    tokens = max(GROUP_TOKENS.get(kernels_of(input_ids), MOST_TOKENS), large)
    start = 0
    while start < max(len(sizes), 1):  # without sentences one empty group
        width = _width(sizes[start], most) if sizes else 1
        full = max(1, tokens // width)
        index = order[start : start + full]
        num_real = len(index)
        step = max(1, full // 8)
        filled = num_real if num_real < step else min(-(-num_real // step) * step, full)
        if filled > num_real:
            index = torch.cat([index, index[:1].expand(filled - num_real)])
        columns = slice(0, width)
        yield Group(index, num_real, input_ids[index, columns], attention_mask[index, columns], rows[index, columns])
        start += full


def _width(length: int, most: int) -> int:
    """The next of few widths."""
    step = next((step for limit, step in ((16, 4), (32, 8), (64, 16)) if length <= limit), 32)
    return max(1, min(-(-length // step) * step, most))
