"""How far what the upper blocks of a graft by own layers read is from what those of a language model do at that depth.

B texts, S sentences of one, L tokens of the longest text, R = L+1+S rows that the upper blocks read, H width of states.
"""

import torch
from torch import Tensor

from sllm.own_layers import FlatSentences, OwnLayers

FIRST = 8  # tokens of a text that are left out: the first states of pretrained models are unlike all others


def compared_rows(places: Tensor, num_tokens: Tensor) -> Tensor:
    """(B, R) bool: rows at these positions (B, R) that are compared, in texts of so many tokens (B,)."""
    return (places >= FIRST) & (places <= num_tokens[:, None])


def num_compared(attention_mask: Tensor) -> Tensor:
    """() how many these are in a batch of sentences (B, S, T): tokens, and last tokens of sentences once more."""
    lengths = attention_mask.sum(-1)  # (B,S)
    ends = (lengths > 0) & (lengths.cumsum(1) >= FIRST)
    return ends.sum() + (lengths.sum(1) - FIRST + 1).clamp(min=0).sum()


def distances(states: Tensor, targets: Tensor) -> Tensor:
    """(...) squared distances of states (..., H) from targets, each over the squared size of its target."""
    size = targets.norm(dim=-1).clamp(min=1e-6)
    return ((states - targets).norm(dim=-1) / size) ** 2


def matching_loss(own: OwnLayers, sentences: FlatSentences, states: Tensor, targets: Tensor) -> Tensor:
    """() sum of `distances` over all compared rows.

    Args:
        states: (B, S+1, H) of the trunk.
        targets: (B, L+1, H) what the language model's upper blocks read, the opening token first.
    """
    places, *_ = own.upper_rows(sentences, states.shape[1])
    num_tokens = torch.zeros_like(places[:, 0]).index_add(0, sentences.rows, sentences.mask.sum(1))
    rows, at = compared_rows(places, num_tokens).nonzero(as_tuple=True)
    read = own.inputs_of_rows(sentences, states)[rows, at]
    return distances(read.float(), targets[rows, places[rows, at]].float()).sum()
