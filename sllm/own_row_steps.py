"""Writing one text with a graft by own layers in compiled steps, each of which reads one row about as fast as memory
hands out the weights (`lmbase.modeling.one_row`), with caches of fixed size.

C positions of a cache, H the model's own width, D width of its vocabulary table, V vocabulary.

A token inside a sentence is one step through lower and upper blocks; the first of a sentence passes the upper ones
only, and closing one is a step of the blocks between. The product with the vocabulary is a step of its own: where the
flag says that the sentence ends it is not made.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig

from lmbase.modeling.attention import added_mask
from lmbase.modeling.cache import FixedRows, RowCache
from lmbase.modeling.compiling import check_attention, compiled_for, lanes_of
from lmbase.modeling.one_row import row_twin
from lmbase.modeling.stages import BlockRunner, embed
from lmbase.modeling.trunk import key_value_shape
from sllm import own_reading, reading
from sllm.end_flag import ends_for_sure, joint_logits, only_end
from sllm.modeling_sllm import SLLMModel
from sllm.own_layers import OwnLayers
from sllm.own_reading import STATES, OwnState, OwnWriting, remember, rows_of_window, shared, windowed

PLACES = 256  # caches grow by so many, so that blocks of all stages mostly find one shape, and are compiled once
SENTENCE_TOKENS = 4  # clauses of novels have 9; where sentences are shorter yet, the trunk's cache grows

Layers = dict[int, tuple[Tensor, Tensor]]  # keys and values (1, heads, C, d) by number of the block


class OwnRowSteps:
    """Reads and writes one text like the model itself.

    Args:
        num_tokens, num_sentences: to be written at most; the trunk's cache has room for about as much.

    Raises:
        ValueError: attention that takes no mask.
    """

    def __init__(self, model: SLLMModel, config: GenerationConfig, num_tokens: int, num_sentences: int):
        check_attention(model.config.trunk._attn_implementation)
        most = min(num_sentences, model.config.trunk.max_position_embeddings)
        self.model, self.num_sentences = model, min(num_tokens // SENTENCE_TOKENS + 1, most)
        self.twin, self.head = model, None
        if not config.disable_compile:
            self.twin, self.head = row_twin(model, model.packed_table or model.output_table, lanes_of(config))
        steps = _read_row, _read_state, _logits
        self._row, self._state, self._vocabulary = (compiled_for(self.twin, step, config) for step in steps)

    def fix(self, state: OwnState) -> OwnState:
        """A state with caches of fixed size, with room for the sentences to come."""
        trunk = self.model.config.trunk
        heads, width = key_value_shape(trunk)
        for number in range(trunk.num_hidden_layers - self.model.config.upper_layers, trunk.num_hidden_layers):
            if number not in state.upper.layers:  # of an empty prompt nothing was read
                empty = state.last.new_zeros(1, heads, 0, width)
                state.upper.layers[number] = empty, empty
        self._fix_windows(state)
        _resize(state.past_key_values, state.past_key_values.lengths[0] + self.num_sentences)
        return state

    def _fix_windows(self, state: OwnState) -> None:
        config = self.model.config
        for cache, window in ((state.lower, config.lower_window), (state.upper, config.upper_window)):
            _resize(cache, rows_of_window(config, window))

    def give_back(self) -> None:
        """Nothing more is read or written; the caches are the call's own."""

    def write_row(self, ids: Tensor, written: OwnWriting, early: bool) -> tuple[Tensor, Tensor, Tensor]:
        """One more row (1, 1) of a sentence: states (1, 1, H) of the lower blocks, those that the vocabulary reads
        (1, 1, 1, D), logits (1, 1, 1, V).

        Args: early: an end that is surely likelier than any token is enough.
        """
        states, hidden, flags = self._read(ids, written)
        if early and flags is not None and ends_for_sure(flags):
            logits = only_end(flags, self.model.config.vocab_size, self.model.config.eos_token_id)
        else:
            logits = self._vocabulary(self.head, hidden, flags)
        return states, hidden[:, :, None], logits[:, :, None]

    def step(self, input_ids: Tensor, attention_mask: Tensor, state: OwnState) -> None:
        """As `reading.step`."""
        written, (ids,) = state.writing, input_ids.tolist()
        length = int(attention_mask.sum())
        if written is not None and written.opened and shared(written.kept[0], ids[:length]) == length - 1:
            self._read(torch.tensor([[ids[length - 1]]]), written)  # the last token of a full sentence
            written.keep([[0]])
        own_reading.step(self.model, input_ids, attention_mask, state, self._read_vector)
        self._fix_windows(state)  # a cache that has dropped rows is a new one

    def _read(self, ids: Tensor, written: OwnWriting) -> tuple[Tensor, Tensor, Tensor | None]:
        state, opening = written.state, not written.opened
        written.latest = ids.tolist()
        starts = state.lower.lengths[0], state.upper.lengths[0]
        at = torch.tensor([state.ends[0], state.upper.lengths[0] - state.upper_held[0], *starts])
        layers = _blocks_only(state.lower), _blocks_only(state.upper)
        found = self._row(None if opening else ids, at, state.last, written.joined, *layers)
        if not opening:
            remember(state.lower, found[0])
        return found

    def _read_vector(self, vector: Tensor, positions: Tensor, cache: RowCache) -> Tensor:
        """The trunk's next state (1, 1, H), made of a sentence's vector at a position (1, 1)."""
        start = cache.lengths[0]
        if start == cache.capacity:
            _resize(cache, start + 1)
        return self._state(vector, positions, cache.starts, cache.layers)


def _read_row(
    twin: SLLMModel,
    ids: Tensor | None,
    at: Tensor,
    last: Tensor,
    joined: tuple[Tensor, Tensor],
    lower: Layers,
    upper: Layers,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """
    Args:
        ids: (1, 1) a token of the sentence; None: the one before it, of which the trunk's state was made.
        at: (4,) where the latest sentence ends, tokens since then, where the caches' new rows stand.
        last: (1, H) the lower blocks' state at that end. joined: (1, 1, H) each, see `OwnLayers.joined`.

    Returns:
        states (1, 1, H) of the lower blocks, those that the vocabulary reads (1, 1, D), the flag's log-odds (1, 1).
    """
    own, trunk = cast(OwnLayers, twin.own), twin.trunk
    end, offset, lower_start, upper_start = (one[None] for one in at.split(1))  # (1,1)
    states = last[:, None]
    if ids is not None:
        most = trunk.config.max_position_embeddings - 1
        positions = (end + offset).clamp(max=most)
        cache = FixedRows(lower, lower_start[0])
        states = embed(trunk, ids, positions)
        states = _run(twin, own.lower(trunk), states, positions, cache, own.config.lower_window)
    inputs = own.upper_inputs(states, *joined, offset)
    cache = FixedRows(upper, upper_start[0])
    found = _run(twin, own.upper(trunk), inputs, end + offset, cache, own.config.upper_window)
    hidden = twin.finish(found)
    return states, hidden, None if twin.end_head is None else twin.end_head(hidden).squeeze(-1)


def _read_state(twin: SLLMModel, vector: Tensor, positions: Tensor, starts: Tensor, layers: Layers) -> Tensor:
    middle, everything = cast(OwnLayers, twin.own).middle(twin.trunk), twin.trunk.config.max_position_embeddings
    return _run(twin, middle, vector, positions, FixedRows(layers, starts), everything + 1)


def _run(
    twin: SLLMModel, blocks: Iterable[nn.Module], states: Tensor, positions: Tensor, cache: FixedRows, window: int
) -> Tensor:
    """Some blocks on one row (1, 1, H) at a position (1, 1)."""
    if not cache.layers:
        return states
    here = torch.zeros(1, dtype=torch.long)
    visible = windowed(cache, here[:, None] == here, here, window)
    if twin.trunk.config._attn_implementation == "eager":  # which adds it to scores
        visible = added_mask(visible, states.dtype)
    run = BlockRunner(twin.trunk, states, visible, positions, cache)
    for block in blocks:
        states = run(block, states)
    return states


def _logits(twin: SLLMModel, head: nn.Module | None, hidden: Tensor, flags: Tensor | None) -> Tensor:
    """As `reading.lm_logits`: (1, 1, D) after the last norm -> (1, 1, V)."""
    logits = reading.vocabulary_logits(twin, hidden) if head is None else head(hidden)
    return logits if flags is None else joint_logits(logits, flags, twin.config.eos_token_id)


def _blocks_only(cache: RowCache) -> Layers:
    return {number: layer for number, layer in cache.layers.items() if number != STATES}


def _resize(cache: RowCache, capacity: int) -> None:
    """Let all layers have so many positions, rounded up."""
    cache.capacity = -(-capacity // PLACES) * PLACES
    for number, layer in cache.layers.items():
        if more := cache.capacity - layer[0].shape[2]:
            keys, values = (F.pad(x, (0, 0, 0, more)).contiguous() for x in layer)
            cache.layers[number] = keys, values
