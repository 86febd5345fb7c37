"""How far what the upper blocks of a graft by own layers read is from what those of a language model do at that depth.

B texts, S sentences of one, L tokens of the longest text, R rows that the upper blocks read, H width of states.
"""

import torch
from torch import Tensor

from sllm.own_layers import FlatSentences, OwnLayers

FIRST = 8  # tokens of a text that are left out: the first states of pretrained models are unlike all others


def compared_rows(places: Tensor, num_tokens: Tensor) -> Tensor:
    """(B, R) bool: rows at these positions (B, R) that are compared, in texts of so many tokens (B,)."""
    return (places >= FIRST) & (places <= num_tokens[:, None])


def num_compared(attention_mask: Tensor) -> Tensor:
    """() tokens of a batch of sentences (B, S, T) that `matching_loss` compares."""
    return (attention_mask.sum((1, 2)) - FIRST + 1).clamp(min=0).sum()


def distances(states: Tensor, targets: Tensor) -> Tensor:
    """(...) squared distances of states (..., H) from targets, each over the squared size of its target."""
    size = targets.norm(dim=-1).clamp(min=1e-6)
    return ((states - targets).norm(dim=-1) / size) ** 2


def matching_loss(own: OwnLayers, sentences: FlatSentences, states: Tensor, targets: Tensor) -> Tensor:
    """() sum of `distances` over tokens, each with the latest state of the trunk: that, with which the next token is
    predicted. Last tokens with the state before, which say no more than that a sentence ends, are left out.

    Args:
        states: (B, S+1, H) of the trunk.
        targets: (B, L+1, H) what the language model's upper blocks read, the opening token first.
    """
    b, num_rows = sentences.flat.shape
    num_tokens = sentences.before.new_zeros(b).index_add(0, sentences.rows, sentences.mask.sum(1))
    places = torch.arange(num_rows, device=states.device).expand(b, -1)  # (B,L+1)
    wanted = compared_rows(places, num_tokens)
    read = own.inputs_of_rows(sentences, states)[:, :num_rows]
    return distances(read[wanted].float(), targets[wanted].float()).sum()
