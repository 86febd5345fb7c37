"""The steps of one call of `generate` as functions of tensors whose shapes recur, compiled, with caches of fixed size.

B texts, R rows of a pass, T tokens of a sentence, W memory tokens, C positions of a cache, k drafting heads, D width,
V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import CacheLayerMixin

from lmbase.modeling.attention import added_mask
from lmbase.modeling.cache import CACHE_KEY, FixedRows, RowCache, give_back, take_fixed_cache
from lmbase.modeling.compiling import check_attention, compiled
from multitoken.draft_tree import DraftTree
from multitoken.transitions import Ahead, Guessers, sequential_guesses
from sentencevae.decoder import DecoderState
from sentencevae.layers import TreeMask
from sllm import reading
from sllm.modeling_sllm import SLLMModel
from sllm.reading import ReadingState, newest_tokens

FEWEST_POSITIONS, FEWEST_TOKENS = 64, 16  # of a trunk's cache, of a sentence: fewer shapes to compile
PLACES = 32  # the decoder's cache grows by so many, so that drafts of all sizes share it
SENTENCE_TOKENS = 4  # clauses of novels have 9; where sentences are shorter yet, the trunk's cache is doubled


class CompiledSteps:
    """Reads and writes like the model itself.

    Args:
        num_rows: the most rows of a pass, guesses among them.
        num_tokens, num_sentences: to be written at most; the trunk's cache has room for about as much.

    Raises:
        ValueError: attention that takes no mask.
    """

    def __init__(
        self,
        model: SLLMModel,
        config: GenerationConfig,
        num_texts: int,
        num_rows: int,
        num_tokens: int,
        num_sentences: int,
    ):
        check_attention(model.config.trunk._attn_implementation)
        self.model, self.num_texts = model, num_texts
        self.num_sentences = min(num_tokens // SENTENCE_TOKENS + 1, num_sentences)
        steps = _write_rows, _encode, _read_state, _draft
        self._write, self._encode, self._trunk, self._draft = (compiled(step, config) for step in steps)
        autoencoder = model.config.autoencoder
        places = model.autoencoder.decoder.max_positions + num_rows  # guesses may lie behind the last position
        heads, capacity = autoencoder.num_attention_heads, -(-places // PLACES) * PLACES
        shape = num_texts, heads, capacity, autoencoder.hidden_size // heads
        self._trunk_cache: RowCache | None = None
        self._cache = take_fixed_cache(model, "decoder", autoencoder.num_decoder_layers, shape, model.start_state)

    def give_back(self) -> None:
        """Nothing more is read or written: the caches may serve the model's next call."""
        give_back(self.model, "decoder", self._cache)
        self._give_back_trunk()

    def _give_back_trunk(self) -> None:
        if self._trunk_cache is not None:
            give_back(self.model, "trunk", self._trunk_cache)

    def fix(self, state: ReadingState) -> ReadingState:
        """A state with a trunk's cache of fixed size, with room for the sentences to come."""
        layers = cast(Iterable[CacheLayerMixin], cast(DynamicCache, state.past_key_values).layers)
        read = [(cast(Tensor, layer.keys), cast(Tensor, layer.values)) for layer in layers]
        self._give_back_trunk()
        return self._with_room(state, read, self.num_sentences)

    def _with_room(self, state: ReadingState, read: list[tuple[Tensor, Tensor]], more: int) -> ReadingState:
        held, most = read[0][0].shape[2], self.model.config.trunk.max_position_embeddings
        if held >= most:  # beside texts that are over others go on
            most = 2 * held
        wanted = max(held + more, FEWEST_POSITIONS)
        capacity = min(1 << (wanted - 1).bit_length(), most)
        _, heads, _, width = read[0][0].shape
        shape = self.num_texts, heads, capacity, width
        cache = take_fixed_cache(self.model, "trunk", len(read), shape, self.model.start_state)
        cache.lengths = [held] * self.num_texts
        for number, layer in enumerate(read):
            for tensor, known in zip(cache.layers[number], layer, strict=True):
                tensor[:, :, :held] = known
        self._trunk_cache = cache
        mask = F.pad(state.attention_mask[:, :held], (0, capacity - held))
        return replace(state, past_key_values=cache, attention_mask=mask)

    def step(self, input_ids: Tensor, attention_mask: Tensor, state: ReadingState) -> None:
        """As `reading.step`."""
        cache = cast(RowCache, state.past_key_values)
        held = cache.lengths[0]
        if held == cache.capacity:
            grown = self._with_room(state, list(cache.layers.values()), held)
            cache = cast(RowCache, grown.past_key_values)
            state.past_key_values, state.attention_mask = cache, grown.attention_mask
        longest = self.model.config.max_sentence_tokens
        width = min(max(1 << (input_ids.shape[1] - 1).bit_length(), FEWEST_TOKENS), longest)
        padding = (0, width - input_ids.shape[1])
        alive = attention_mask.any(1)
        ids, mask = F.pad(input_ids, padding), F.pad(attention_mask, padding)
        found = self._encode(self.model, ids, mask, state.tokens, state.tokens_mask)
        inputs, vectors, state.tokens, state.tokens_mask = (x.clone() for x in found)
        state.attention_mask[:, held] = alive
        new = self._trunk(self.model, inputs, state.attention_mask, cache.starts, list(cache.layers.values()))
        cache.keep([[0]] * len(alive))
        state.add(new, vectors, alive)

    def start_sentence(self, state: ReadingState) -> DecoderState:
        """As `reading.start_sentence`."""
        self._cache.lengths = [0] * len(self._cache.lengths)
        return replace(reading.start_sentence(self.model, state), cache=self._cache)

    def write_rows(
        self, ids: Tensor, written: DecoderState, tree_mask: TreeMask | None, num_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder's states (B, R, D) at the next rows, those of it and k drafting heads without attention after the
        last norm (B, R, 1+k, D), and their logits (B, R, 1+k, V)."""
        rows = FixedRows(list(written.cache.layers.values()), written.cache.starts)
        fixed = replace(written, cache=cast(RowCache, rows))  # all of one that reading asks for
        return self._write(self.model, ids, fixed, tree_mask, num_heads)

    def draft(self, tree: DraftTree, newest: Sequence[int], heads: Ahead) -> Tensor:
        """Guesses (B, R-1) of greedy writing, by transitions, from what heads (B, k, ..) said where the newest tokens
        (B,) were chosen."""
        tokens = torch.tensor(newest, device=heads.logits.device)
        return self._draft(self.model, tree.levels, tokens, heads.states, heads.logits)


def _draft(
    model: SLLMModel, levels: list[list[tuple[int, int]]], newest: Tensor, states: Tensor, logits: Tensor
) -> Tensor:
    embed = model.autoencoder.embed_tokens
    guessers = Guessers(model.draft_transitions, embed, [embed.weight] * len(levels))
    best = lambda j, logits, ids: logits  # noqa: E731
    return sequential_guesses(levels, newest, Ahead(states, logits), guessers, best)


def _write_rows(
    model: SLLMModel, ids: Tensor, written: DecoderState, tree_mask: TreeMask | None, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`CompiledSteps.write_rows`, with `FixedRows` as the cache."""
    states = model.autoencoder.decoder.read(model.autoencoder.embed_tokens(ids), written, tree_mask)
    return states, *reading.lm_logits(model, states, [head(states) for head in model.draft_heads[:num_heads]])


def _encode(
    model: SLLMModel, ids: Tensor, mask: Tensor, tokens: Tensor, tokens_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the trunk reads of each sentence (B, T) -> (B, 1, D), its vector (B, 1, D), and the memory's tokens
    (B, W, D) with theirs."""
    readable = F.pad(mask[:, 1:], (1, 0), value=True)  # the encoder needs one token also where a text is over
    pooled, states = model.autoencoder.encoder(model.autoencoder.embed_tokens(ids), readable)
    embeds, _ = model.autoencoder.latent(pooled)
    return model.sentence_in(embeds)[:, None], embeds[:, None], *newest_tokens(tokens, tokens_mask, states, mask)


def _read_state(
    model: SLLMModel, inputs: Tensor, seen: Tensor, starts: Tensor, layers: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """The trunk's next state (B, 1, D), given which positions (B, C) each text has, the new one among them."""
    visible = added_mask(seen > 0, inputs.dtype)
    return model.trunk(
        inputs_embeds=inputs,
        attention_mask=visible[:, None, None, :],
        position_ids=(seen.sum(1, keepdim=True) - 1).clamp(min=0),
        use_cache=True,
        **{CACHE_KEY: FixedRows(layers, starts)},
    ).last_hidden_state
