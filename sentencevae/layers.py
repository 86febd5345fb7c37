"""Layers of the sentence autoencoder, and how each starts.

N sentences, T tokens of a sentence, D width, H heads, M memory vectors of a sentence, C positions held by a decoder's
cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from lmbase.modeling.attention import attention
from lmbase.modeling.cache import FixedRows, RowCache
from sentencevae.configuration_sentencevae import SentenceVAEConfig


class Attention(nn.Module):
    """Multi-head attention of (N,T,D) queries over (N,M,D) keys; the caller gives keys and values, so it can cache."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.kv_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kv = rearrange(self.kv_proj(x), "n m (two h d) -> two n h m d", two=2, h=self.num_heads)
        return kv[0], kv[1]

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None, causal: bool = False
    ) -> Tensor:
        q = rearrange(self.q_proj(x), "n t (h d) -> n h t d", h=self.num_heads)
        y = attention(q, *keys_values, mask, causal)
        return self.out_proj(rearrange(y, "n h t d -> n t (h d)"))


class MemoryAttention(Attention):
    """Attention to a memory of M vectors in a fixed order; each head learns what each place is worth."""

    def __init__(self, config: SentenceVAEConfig, num_places: int):
        super().__init__(config)
        self.place_bias = nn.Parameter(torch.empty(config.num_attention_heads, num_places))

    def read(self, x: Tensor, memory: "LayerMemory") -> Tensor:
        bias = self.place_bias[:, None, :].masked_fill(~memory.mask[:, None, None, :], float("-inf"))  # (N,H,1,M)
        return self(x, memory.keys_values, bias.to(memory.keys_values[0].dtype))


@dataclass
class LayerMemory:
    """What one decoder layer reads beside the sentence vector: keys and values (N,H,M,d), mask (N,M)."""

    keys_values: tuple[Tensor, Tensor]
    mask: Tensor

    def select(self, index: Tensor) -> "LayerMemory":
        """Of these sentences (n,) only."""
        keys, values = self.keys_values
        return LayerMemory((keys[index], values[index]), self.mask[index])


Memories = Sequence[LayerMemory | None] | None  # of all layers of a decoder
Places = slice | Tensor  # positions of a sentence: the same for all, or (N,T)


class FeedForward(nn.Module):
    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.ffn_dim)
        self.act = ACT2FN[config.activation_function]
        self.fc2 = nn.Linear(config.ffn_dim, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer in which every token of a sentence sees every other."""

    runs_in_parts = True  # for each group of sentences of like length

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        self.ffn_norm = nn.LayerNorm(config.hidden_size)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.attention_norm(x)
        x = x + self.dropout(self.attention(h, self.attention.keys_values(h), mask))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class PositionGates(nn.Module):
    """Multiplies the state at position t by a learned vector g_t.

    With random signs at the start, sum_t g_t * h_t is a superposition from which g_t reads h_t back (as in
    holographic memories): a sum of token states that still knows the order of words.
    """

    def __init__(self, num_positions: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions, width))

    def start_signs(self) -> Tensor:
        """Random signs, the same for encoder and decoder: a longer table opens with the rows of a shorter one."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 2, self.weight.shape, generator=generator, dtype=torch.float32) * 2 - 1

    def forward(self, x: Tensor, places: Places) -> Tensor:
        return x * self.weight[places]


class DecoderLayer(nn.Module):
    """Pre-norm causal layer. A memory of one vector needs no query or key: attention to it is a projection.

    Args: number: of the layer, which decides what it has of the memory.
    """

    runs_in_parts = True  # for each group of sentences of like length, and keys of a memory before

    def __init__(self, config: SentenceVAEConfig, number: int):
        super().__init__()
        self.memory_size = config.memory_of_layer(number)
        self.sentence_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        if self.memory_size:
            self.memory_norm = nn.LayerNorm(config.hidden_size)
            self.memory_attention = MemoryAttention(config, self.memory_size)
        self.ffn_norm = nn.LayerNorm(config.hidden_size)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,  # (N,T,D)
        read: Tensor,  # (N,T,D) the sentence vector as position t reads it
        memory: LayerMemory | None,
        cached: "CachedLayer | None" = None,
    ) -> Tensor:
        x = x + self.sentence_proj(read)
        h = self.attention_norm(x)
        keys_values = self.attention.keys_values(h)
        if cached is None:
            x = x + self.dropout(self.attention(h, keys_values, None, causal=True))
        else:
            x = x + self.attention(h, cached.cache.update(*keys_values, cached.number), cached.visible)
        if memory is not None:
            x = x + self.dropout(self.memory_attention.read(self.memory_norm(x), memory))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))

    def remember(self, vectors: Tensor, mask: Tensor) -> LayerMemory | None:
        """What this layer reads of a memory (N,M,D), of which (N,M) are there: as many places as it has, from the
        first on."""
        if not self.memory_size:
            return None
        return LayerMemory(
            self.memory_attention.keys_values(vectors[:, : self.memory_size]), mask[:, : self.memory_size]
        )


def select_memories(memories: Memories, index: Tensor) -> Memories:
    """Of these sentences (n,) only."""
    return memories and [memory and memory.select(index) for memory in memories]


@dataclass
class CachedLayer:
    """Where a layer finds the keys and values of earlier positions, and what each new position sees (N,1,T,C)."""

    cache: RowCache | FixedRows
    number: int
    visible: Tensor | None  # None: everything


@dataclass
class TreeMask:
    """Rows of a pass that do not simply follow each other: drafts of a tree."""

    visible: Tensor  # (T,T) which of them each sees
    depths: Tensor  # (T,) how far behind the first each stands


def init_layer(module: nn.Module, std: float) -> None:
    """Weights that an encoder or decoder layer starts with."""
    if isinstance(module, nn.Linear):
        init.normal_(module.weight, std=std)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        init.normal_(module.weight, std=std)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, MemoryAttention):
        init.zeros_(module.place_bias)
    elif isinstance(module, PositionGates):
        init.copy_(module.weight, module.start_signs())
