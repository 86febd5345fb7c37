"""What the decoder reads beside a sentence's vector: the latest states of the trunk, tokens before the sentence, and in
every second layer the vectors of earlier sentences.

B texts, S sentences of one, N sentences, L real tokens of all, n sentences of a group, K trunk states, W tokens, M
vectors, H heads of width d.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sentencevae.layers import DecoderLayer, LayerMemory, Memories
from sllm.sentences import Sentences
from sllm.vector_memory import VECTOR_MEMORIES


def memory_vectors(model: Any, states: Tensor, tokens: Tensor, vectors: Tensor) -> Tensor:
    """Trunk states (..., K, D), the encoder's states of tokens (..., W, D) and sentence vectors (..., M, D) as a memory
    holds them: one after another, each told what it is (..., K+W+M, D). Without a memory of vectors K+W."""
    known = [states, tokens]
    if model.config.num_memory_vectors:
        known.append(VECTOR_MEMORIES[model.config.vector_memory].read(vectors))
    return torch.cat([x + kind for x, kind in zip(known, model.memory_kinds, strict=True)], dim=-2)


def memory_of_all(model: Any, layers: nn.ModuleList, sentences: Sentences, states: Tensor) -> list:
    """Of each layer how many places it reads, and keys and values of every state, token and vector, computed once:
    (1,H,B*(S+1)+L+N,d)."""
    if model.memory_kinds is None or not len(layers):
        return []
    tokens = sentences.token_states if model.config.num_memory_tokens else sentences.token_states[:0]
    vectors = memory_vectors(model, states.flatten(0, 1), tokens, sentences.embeds)[None]
    read = cast(Iterable[DecoderLayer], layers)
    return [
        (layer.memory_size, layer.memory_attention.keys_values(vectors)) if layer.memory_size else None
        for layer in read
    ]


def memories_of_sentences(model: Any, sentences: Sentences, states: Tensor, index: Tensor, memory: list) -> Memories:
    """Of all keys and values those that sentences (n,) may read: the latest K states, the W tokens and the vectors of
    the M sentences before each."""
    if model.memory_kinds is None:
        return None
    config, device = model.config, states.device
    (b, s), rows, places = states.shape[:2], sentences.rows[index], sentences.places[index, None]
    number = sentences.numbers[index]
    state = places - latest(config.num_memory_states, device) + 1  # (n,K)
    token = sentences.starts[number, None] - latest(config.num_memory_tokens, device)  # (n,W)
    text_start = sentences.starts[number - places[:, 0]]  # (n,): sentences of a text follow each other
    before = latest(config.num_memory_vectors, device)  # (M,)
    real = token >= text_start[:, None]
    if sentences.closed is not None:
        real &= ~sentences.closed[rows, None]
    mask = torch.cat([state >= 0, real, places >= before], dim=1)  # (n,K+W+M)
    num_tokens = len(sentences.token_states) if config.num_memory_tokens else 0
    known = [rows[:, None] * s + state.clamp(min=0), b * s + token.clamp(min=0)]
    known.append(b * s + num_tokens + (number[:, None] - before).clamp(min=0))
    place = torch.cat(known, dim=1)  # (n,K+W+M)
    return [of_layer and _at(place, mask, *of_layer) for of_layer in memory]


def _at(place: Tensor, mask: Tensor, size: int, keys_values: tuple[Tensor, Tensor]) -> LayerMemory:
    """What stands in the first `size` places (n,K+W+M)."""
    keys, values = (x[0][:, place[:, :size]].transpose(0, 1) for x in keys_values)  # (n,H,size,d)
    return LayerMemory((keys, values), mask[:, :size])


def latest(number: int, device: torch.device) -> Tensor:
    """number, ..., 2, 1: how far before a place the latest `number` things stand, newest last."""
    return torch.arange(number, 0, -1, device=device)
