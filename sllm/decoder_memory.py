"""What the decoder reads beside a sentence's vector: the latest states of the trunk and tokens before the sentence.

B texts, S sentences of one, L real tokens of all, n sentences of a group, K trunk states, W tokens, H heads of width d.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sentencevae.layers import LayerMemory, Memories, memory_keys_values
from sllm.sentences import Sentences


def memory_of_all(model: Any, layers: nn.ModuleList, sentences: Sentences, states: Tensor) -> list:
    """Each layer's keys and values of every state and token, computed once: (1,H,B*(S+1)+L,d)."""
    if model.memory_kinds is None or not len(layers):
        return []
    kinds = model.memory_kinds
    vectors = torch.cat([states.flatten(0, 1) + kinds[0], sentences.token_states + kinds[1]])
    return memory_keys_values(layers, vectors[None])


def memories_of_sentences(model: Any, sentences: Sentences, states: Tensor, index: Tensor, memory: list) -> Memories:
    """Of all keys and values those that sentences (n,) may read: the latest K states and W tokens before each."""
    if model.memory_kinds is None:
        return None
    (b, s), rows = states.shape[:2], sentences.rows[index]
    number = sentences.numbers[index]
    state = sentences.places[index, None] - latest(model.config.num_memory_states, states.device) + 1  # (n,K)
    token = sentences.starts[number, None] - latest(model.config.num_memory_tokens, states.device)  # (n,W)
    text_start = sentences.starts[number - sentences.places[index]]  # (n,): sentences of a text follow each other
    real = token >= text_start[:, None]
    if sentences.closed is not None:
        real &= ~sentences.closed[rows, None]
    mask = torch.cat([state >= 0, real], dim=1)  # (n,K+W)
    place = torch.cat([rows[:, None] * s + state.clamp(min=0), b * s + token.clamp(min=0)], dim=1)  # (n,K+W)
    return [LayerMemory((k[0][:, place].transpose(0, 1), v[0][:, place].transpose(0, 1)), mask) for k, v in memory]


def latest(number: int, device: torch.device) -> Tensor:
    """number, ..., 2, 1: how far before a place the latest `number` things stand, newest last."""
    return torch.arange(number, 0, -1, device=device)
