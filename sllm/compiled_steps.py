"""The steps of one call of `generate` as functions of tensors whose shapes recur, compiled, with caches of fixed size.

B texts, R rows of a pass, T tokens of a sentence, W memory tokens, C positions of a cache, k drafting heads, D width,
V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CompileConfig, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from lmbase.cache import FixedRows, RowCache
from lmbase.compiling import compiled
from multitoken.speculation import DraftTree
from multitoken.transitions import Ahead, sequential_guesses
from sentencevae.modeling_sentencevae import Branches, DecoderState, Memories
from sllm.stepwise_sllm import ReadingState, newest_tokens

if TYPE_CHECKING:
    from sllm.modeling_sllm import SLLM

FEWEST_POSITIONS, FEWEST_TOKENS = 64, 16  # of a trunk's cache, of a sentence: fewer shapes to compile


class CompiledSteps:
    """Reads and writes like the model itself.

    Args:
        num_rows: the most rows of a pass, guesses among them.
    """

    def __init__(self, model: "SLLM", config: CompileConfig | None, num_texts: int, num_rows: int):
        self.model = model
        steps = _write_rows, _encode, _read_state, _draft
        self._write, self._encode, self._trunk, self._draft = (compiled(step, config) for step in steps)
        autoencoder = model.config.autoencoder
        heads = autoencoder.num_attention_heads
        nothing = model.start_state.new_empty(num_texts, heads, 0, autoencoder.hidden_size // heads)
        layers = [(nothing, nothing)] * autoencoder.num_decoder_layers
        # Its tensors serve one sentence after another. Guesses may lie behind the last position.
        capacity = model.autoencoder.decoder.max_positions + num_rows
        self._cache = RowCache.of_fixed_size(layers, capacity, [0] * num_texts)

    def fix(self, state: ReadingState, num_sentences: int) -> ReadingState:
        """A state with a trunk's cache of fixed size, with room for so many sentences."""
        held = state.attention_mask.shape[1]
        most = self.model.config.trunk.max_position_embeddings
        wanted = max(held + num_sentences, FEWEST_POSITIONS)
        capacity = max(held, min(1 << (wanted - 1).bit_length(), most))
        read = cast(Iterable[CacheLayerMixin], cast(DynamicCache, state.past_key_values).layers)
        layers = [(cast(Tensor, layer.keys), cast(Tensor, layer.values)) for layer in read]
        cache = RowCache.of_fixed_size(layers, capacity, [held] * len(state.states))
        return replace(state, past_key_values=cache, attention_mask=_widened(state.attention_mask, capacity))

    def read_sentence(self, input_ids: Tensor, attention_mask: Tensor, state: ReadingState) -> None:
        """As SLLM.read_sentence."""
        cache = cast(RowCache, state.past_key_values)
        held = cache.lengths[0]
        if held == cache.capacity:
            layers = list(cache.layers.values())
            cache = RowCache.of_fixed_size(layers, 2 * held, cache.lengths)
            state.past_key_values, state.attention_mask = cache, _widened(state.attention_mask, 2 * held)
        longest = self.model.config.max_sentence_tokens
        width = min(max(1 << (input_ids.shape[1] - 1).bit_length(), FEWEST_TOKENS), longest)
        padding = (0, width - input_ids.shape[1])
        alive = attention_mask.any(1)
        ids, mask = F.pad(input_ids, padding), F.pad(attention_mask, padding)
        found = self._encode(self.model, ids, mask, state.tokens, state.tokens_mask)
        inputs, state.tokens, state.tokens_mask = (x.clone() for x in found)
        state.attention_mask[:, held] = alive
        new = self._trunk(self.model, inputs, state.attention_mask, cache.starts, list(cache.layers.values()))
        cache.keep([[0]] * len(alive))
        state.add(new, alive)

    def start_writing(self, state: ReadingState) -> DecoderState:
        """As SLLM.start_writing."""
        self._cache.lengths = [0] * len(self._cache.lengths)
        return replace(self.model.start_writing(state), cache=self._cache)

    def write_rows(
        self, ids: Tensor, written: DecoderState, branches: Branches | None, num_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder's states (B, R, D) at the next rows, those of it and k drafting heads without attention after the
        last norm (B, R, 1+k, D), and their logits (B, R, 1+k, V)."""
        layers = list(written.cache.layers.values())
        rest = written.sentence_embeds, written.memories, branches, num_heads
        return self._write(self.model, ids, written.cache.starts, layers, *rest)

    def draft(self, tree: DraftTree, newest: Sequence[int], rows: Sequence[int], heads: Ahead) -> Tensor:
        """Guesses (B, R-1) of greedy writing, by transitions; `newest` tokens were chosen at these rows (B,)."""
        chosen = torch.tensor([newest, rows], device=heads.logits.device)
        return self._draft(self.model, tree.levels, chosen, heads.states, heads.logits)


def _draft(
    model: "SLLM", levels: list[list[tuple[int, int]]], chosen: Tensor, states: Tensor, logits: Tensor
) -> Tensor:
    newest, rows = chosen
    texts = torch.arange(len(rows), device=rows.device)
    embed = model.autoencoder.embed_tokens
    tables = [embed.weight] * len(levels)
    last = states[texts, rows], logits[texts, rows]
    return sequential_guesses(levels, newest, *last, model.draft_transitions, embed, tables, _logits)


def _logits(j: int, logits: Tensor, ids: Tensor) -> Tensor:
    return logits


def _write_rows(
    model: "SLLM",
    ids: Tensor,
    starts: Tensor,
    layers: list[tuple[Tensor, Tensor]],
    sentence_embeds: Tensor,
    memories: Memories,
    branches: Branches | None,
    num_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    decoder = model.autoencoder.decoder
    rows = cast(RowCache, FixedRows(layers, starts))  # all of one that reading asks for
    states = decoder.read(model.autoencoder.embed_tokens(ids), DecoderState(rows, sentence_embeds, memories), branches)
    ahead = [head(states) for head in model.draft_heads[:num_heads]]
    hidden = decoder.norm(torch.stack([states, *ahead], dim=2))
    return states, hidden, model.vocabulary_logits(hidden)


def _encode(
    model: "SLLM", ids: Tensor, mask: Tensor, tokens: Tensor, tokens_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the trunk reads of each sentence (B, T) -> (B, 1, D), and the memory's tokens (B, W, D) with theirs."""
    readable = mask | F.one_hot(mask.new_zeros(len(mask), dtype=torch.long), mask.shape[1]).bool()  # see read_sentence
    pooled, states = model.autoencoder.encoder(model.autoencoder.embed_tokens(ids), readable)
    embeds, _ = model.autoencoder._latent(pooled)
    return model.sentence_in(embeds)[:, None], *newest_tokens(tokens, tokens_mask, states, mask)


def _read_state(
    model: "SLLM", inputs: Tensor, seen: Tensor, starts: Tensor, layers: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """The trunk's next state (B, 1, D), given which positions (B, C) each text has, the new one among them."""
    visible = torch.zeros_like(seen, dtype=inputs.dtype).masked_fill(seen == 0, torch.finfo(inputs.dtype).min)
    return model.trunk(
        inputs_embeds=inputs,
        attention_mask=visible[:, None, None, :],
        position_ids=(seen.sum(1, keepdim=True) - 1).clamp(min=0),
        past_key_values=FixedRows(layers, starts),
        use_cache=True,
    ).last_hidden_state


def _widened(mask: Tensor, capacity: int) -> Tensor:
    return F.pad(mask, (0, capacity - mask.shape[1]))
