"""The sentence decoder: all positions at once, or step by step with a cache; and what it is to predict.

N sentences, T tokens of a sentence (end mark included), D width, C positions held by a cache.

    sentence_embeds (N,D), the tokens so far (N,T,D) -> hidden states (N,T,D) that predict the next tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbase.modeling.cache import RowCache
from sentencevae.configuration_sentencevae import SentenceVAEConfig
from sentencevae.grouping import Group
from sentencevae.layers import (
    CachedLayer,
    DecoderLayer,
    LayerMemory,
    Memories,
    Places,
    PositionGates,
    TreeMask,
    select_memories,
)


@dataclass
class DecoderState:
    """What decoding a batch of sentences token by token remembers."""

    cache: RowCache
    sentence_embeds: Tensor  # (N,D)
    memories: Memories

    def select(self, sentences: Sequence[int]) -> None:
        """Go on with these sentences only, in this order."""
        index = torch.tensor(sentences, device=self.cache.device)
        self.cache.select(sentences)
        self.sentence_embeds = self.sentence_embeds[index]
        self.memories = select_memories(self.memories, index)

    def keep(self, rows: Sequence[Sequence[int]]) -> None:
        """Of the rows just read those that stand."""
        self.cache.keep(rows)

    def visible(self, num_rows: int, tree: TreeMask | None = None) -> Tensor | None:
        """What each of T new rows sees: all before it."""
        if num_rows == 1 and self.cache.even:
            return None
        if tree is not None:
            return self.cache.visible(tree.visible)
        square = torch.ones(num_rows, num_rows, dtype=torch.bool, device=self.sentence_embeds.device)
        return self.cache.visible(square.tril())

    def places(self, num_rows: int, tree: TreeMask | None = None) -> Places:
        """Positions of T new rows in their sentences."""
        if tree is None:
            return self.cache.places(num_rows)
        return self.cache.starts[:, None] + tree.depths


class SentenceDecoder(nn.Module):
    """Sentence vector (N,D) and the tokens so far (N,T,D) -> hidden states (N,T,D) that predict the next tokens."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.max_positions = config.max_sentence_tokens + 1  # position 0 holds the start token
        self.positions = nn.Embedding(self.max_positions, config.hidden_size)
        learned = config.pooling == "learned"
        # Position t predicts token t, so it reads with the gate that token t was written with.
        self.gates = PositionGates(self.max_positions, config.hidden_size) if learned else None
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, embeds: Tensor, sentence_embeds: Tensor, memories: Memories = None) -> Tensor:
        """All positions at once (teacher forcing): embeds (N,T,D) of the start token and the tokens but the last."""
        return self.norm(self.states(embeds, sentence_embeds, memories))

    def states(self, embeds: Tensor, sentence_embeds: Tensor, memories: Memories = None) -> Tensor:
        """`forward` before its last norm: what further blocks read."""
        places = slice(0, embeds.shape[1])
        return self._run(embeds, places, sentence_embeds, memories, [None] * len(self.layers))

    def start(self, sentence_embeds: Tensor, memories: Memories = None) -> DecoderState:
        """Begin to write one sentence for each row of sentence_embeds (N,D)."""
        cache = RowCache(len(sentence_embeds), self.max_positions, sentence_embeds.device)
        return DecoderState(cache, sentence_embeds, memories)

    def step(self, embeds: Tensor, state: DecoderState) -> Tensor:
        """The next T positions (N,T,D), remembered in `state`; equals `forward` at those positions."""
        x = self.norm(self.read(embeds, state))
        state.cache.keep([range(embeds.shape[1])] * len(embeds))
        return x

    def read(self, embeds: Tensor, state: DecoderState, tree: TreeMask | None = None) -> Tensor:
        """`step` before its last norm; the caller tells `state.cache` which positions to keep."""
        visible = state.visible(embeds.shape[1], tree)
        cached = [CachedLayer(state.cache, number, visible) for number in range(len(self.layers))]
        places = state.places(embeds.shape[1], tree)
        return self._run(embeds, places, state.sentence_embeds, state.memories, cached)

    def reading(self, sentence_embeds: Tensor, places: Places) -> Tensor:
        """The sentence vectors (N,D) as positions read them, (N,T,D) or (N,1,D)."""
        read = sentence_embeds[:, None]
        return read if self.gates is None else self.gates(read, self._within(places))

    def _within(self, places: Places) -> Places:
        if isinstance(places, slice):
            if places.stop <= self.max_positions:
                return places
            places = torch.arange(places.start, places.stop, device=self.positions.weight.device)
        # Guesses may lie behind the last position; what becomes of them is thrown away.
        return places.clamp(max=self.max_positions - 1)

    def _run(
        self, embeds: Tensor, places: Places, sentence_embeds: Tensor, memories: Memories, cached: Sequence
    ) -> Tensor:
        x = embeds + self.positions.weight[self._within(places)]  # (N,T,D)
        read = self.reading(sentence_embeds, places)
        of_layers: Sequence[LayerMemory | None] = memories or [None] * len(self.layers)
        for layer, memory, of_layer in zip(self.layers, of_layers, cached, strict=True):
            x = layer(x, read, memory, of_layer)
        return x


@dataclass
class SentenceTargets:
    """What a decoder reads and what it must predict, cut by one index so that they cannot drift apart."""

    inputs: Tensor  # (N,T+1) the start token, then the sentence
    targets: Tensor  # (N,T+1) the sentence, then the end mark
    mask: Tensor  # (N,T+1) True on real targets
    first: Tensor  # (N,T+1) True at position 0, where the end mark has probability 0

    def gather(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of states (N,T+1,D) those that predict something (M,D), what they must predict, and `first` there (M,)."""
        return hidden[self.mask], self.targets[self.mask], self.first[self.mask]


def sentence_targets(input_ids: Tensor, attention_mask: Tensor, config: SentenceVAEConfig) -> SentenceTargets:
    """Shift (N,T) sentences against themselves.

    A sentence of exactly `max_sentence_tokens` tokens has no end mark to predict: it is forced.
    """
    n, t = input_ids.shape
    lengths = attention_mask.sum(1, keepdim=True)  # (N,1)
    index = torch.arange(t + 1, device=input_ids.device)[None]  # (1,T+1)
    padded = F.pad(input_ids, (0, 1), value=config.pad_token_id)  # (N,T+1)
    targets = torch.where(index == lengths, config.eos_token_id, padded)
    start = input_ids.new_full((n, 1), config.bos_token_id)
    inputs = torch.cat([start, input_ids], dim=1)
    mask = (index <= lengths) & (index < config.max_sentence_tokens)
    return SentenceTargets(inputs, targets, mask, (index == 0).expand(n, -1))


def group_targets(group: Group, config: SentenceVAEConfig) -> SentenceTargets:
    """Those of a group; sentences that are repeated predict nothing."""
    cut = sentence_targets(group.ids, group.mask, config)
    return SentenceTargets(cut.inputs, cut.targets, cut.mask & group.real, cut.first)
