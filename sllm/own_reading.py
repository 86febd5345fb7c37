"""Reading and writing with a graft by own layers, step by step with caches; scores are those of the parallel path.

B texts, S sentences of a text, T tokens of a sentence, R rows of a pass, H the model's own width.

The lower blocks read every token once. The upper blocks read the latest sentence's last token with the trunk's new
state, then the tokens of the sentence that is written. Caches of both hold a window of tokens, that of the trunk one
position a sentence. In step k a text's lower cache ends at e(k), its upper cache in front of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from lmbase.modeling.cache import FixedRows, RowCache
from lmbase.modeling.stages import band, embed, run_blocks
from sentencevae.layers import TreeMask
from sllm.configuration_sllm import SLLMConfig
from sllm.modeling_sllm import SLLMModel
from sllm.own_layers import OwnLayers

SLACK = 64  # rows behind a window that wait to be dropped together


@dataclass
class OwnState:
    """What step-by-step reading of B texts remembers."""

    past_key_values: RowCache  # of the trunk
    lower: RowCache  # with the lower blocks' states as one more layer
    upper: RowCache
    states: Tensor  # (B, 1, H) the trunk's latest
    last: Tensor  # (B, H) the lower blocks' state of the latest sentence's last token
    ends: list[int]  # e(k) of each text
    lower_held: list[int] = field(default_factory=list)  # rows of the caches up to the latest sentence's end
    upper_held: list[int] = field(default_factory=list)
    writing: "OwnWriting | None" = None


class OwnWriting:
    """Some texts of a state while their next sentence is written. It reads behind what the state holds."""

    def __init__(self, model: SLLMModel, state: OwnState):
        self.model, self.state, self.texts = model, state, list(range(len(state.ends)))
        # What an earlier beginning has read behind the latest sentence is forgotten.
        state.lower.lengths, state.upper.lengths = list(state.lower_held), list(state.upper_held)
        self.lower, self.upper = state.lower, state.upper
        self.joined = joined_of(_own(model), state)  # (B,1,H) each
        self.opened = False
        self.kept: list[list[int]] = [[] for _ in self.texts]  # ids of all texts that stand in the lower cache
        self.latest: list[list[int]] = []  # (b, R) of the last pass

    def select(self, texts: Sequence[int]) -> None:
        """Go on with these texts only, in this order."""
        self.give_back()
        self.texts = [self.texts[b] for b in texts]
        self.lower, self.upper = (_part(cache, self.texts) for cache in (self.state.lower, self.state.upper))

    def give_back(self) -> None:
        """Write into the state what was read of texts that were selected."""
        for part, whole in ((self.lower, self.state.lower), (self.upper, self.state.upper)):
            if part is not whole:
                _put(part, whole, self.texts)
        self.lower, self.upper = self.state.lower, self.state.upper

    def read(self, ids: Tensor, tree: TreeMask | None = None) -> Tensor:
        """States (b, R, H) of the upper blocks at R more rows (b, R), the first of a sentence's first pass being the
        token before it."""
        opening, self.latest = not self.opened, ids.tolist()
        state, own = self.state, _own(self.model)
        within = tree.visible if tree is not None else band(ids.shape[1], ids.shape[1], ids.device)
        depths = tree.depths if tree is not None else torch.arange(ids.shape[1], device=ids.device)
        ends = torch.tensor([state.ends[b] for b in self.texts], device=ids.device)
        last = state.last[self.texts]  # (b,H)
        at_end, carried = (each[self.texts] for each in self.joined)  # (b,1,H)
        new = ids[:, opening:]
        states = self._read_lower(new, within[opening:, opening:], depths[: new.shape[1]], ends)
        if opening:
            states = torch.cat([last[:, None], states], dim=1)
        held = [state.upper_held[b] for b in self.texts]
        offsets = self._offsets(self.upper, held) + depths  # (b,R)
        inputs = own.upper_inputs(states, at_end, carried, offsets)
        visible = windowed(self.upper, within, depths, own.config.upper_window)
        upper = own.upper(self.model.trunk)
        return run_blocks(self.model.trunk, upper, inputs, visible, ends[:, None] + offsets, self.upper)

    def keep(self, rows: Sequence[Sequence[int]]) -> None:
        """Of the rows just read those that stand."""
        for text, ids, kept in zip(self.texts, self.latest, rows, strict=True):
            self.kept[text] += [ids[row] for row in kept if self.opened or row]
        self.upper.keep(rows)
        self.lower.keep(rows if self.opened else [[row - 1 for row in kept if row] for kept in rows])
        self.opened = True

    def _read_lower(self, ids: Tensor, within: Tensor, depths: Tensor, ends: Tensor) -> Tensor:
        held = [self.state.lower_held[b] for b in self.texts]
        positions = ends[:, None] + 1 + self._offsets(self.lower, held) + depths  # (b,R)
        # Guesses may lie behind the last position; what becomes of them is thrown away.
        positions = positions.clamp(max=self.model.config.trunk.max_position_embeddings - 1)
        return read_lower(self.model, ids, positions, self.lower, within, depths)

    def _offsets(self, cache: RowCache, held: Sequence[int]) -> Tensor:
        """(b, 1) rows that were kept of the sentence so far."""
        return (cache.starts - torch.tensor(held, device=cache.device))[:, None]


def windowed(cache: RowCache | FixedRows, within: Tensor, depths: Tensor, window: int) -> Tensor:
    """(B, 1, R, C) bool: what each of R new rows at these depths (R,) sees of all that is held, and of the new ones."""
    visible = cache.visible(within)  # (B,1,R,C)
    place = torch.arange(visible.shape[-1], device=within.device)
    apart = cache.starts[:, None, None] + depths[:, None] - place  # (B,R,C) rows between, of those held before
    return visible & ((apart < window) | (place == 0) | (place >= cache.starts[:, None, None]))[:, None]


def joined_of(own: OwnLayers, state: OwnState) -> tuple[Tensor, Tensor]:
    """(B, 1, H) each: `OwnLayers.joined` of the latest sentences."""
    first = torch.tensor(state.ends, device=state.last.device)[:, None] == 0
    return own.joined(state.states, state.last[:, None], first)


def read_lower(
    model: SLLMModel, ids: Tensor, positions: Tensor, cache: RowCache, within: Tensor, depths: Tensor
) -> Tensor:
    """Lower blocks over R more tokens (B, R) -> (B, R, H); the states are remembered, too."""
    own, trunk = _own(model), model.trunk
    if not ids.shape[1]:
        return torch.zeros(len(ids), 0, trunk.config.hidden_size, device=ids.device, dtype=model.dtype)
    visible = windowed(cache, within, depths, own.config.lower_window)
    states = run_blocks(trunk, own.lower(trunk), embed(trunk, ids, positions), visible, positions, cache)
    remember(cache, states)
    return states


def prefill(model: SLLMModel, input_ids: Tensor, attention_mask: Tensor, sentence_mask: Tensor) -> OwnState:
    """`reading.prefill`."""
    own, trunk, device = _own(model), model.trunk, input_ids.device
    b, ends = len(input_ids), (attention_mask & sentence_mask[..., None]).sum((1, 2)).tolist()
    num_rows = 1 + max(ends, default=0)
    lower, upper = (RowCache(b, num_rows + SLACK, device) for _ in range(2))
    middle = RowCache(b, sentence_mask.shape[1] + 1 + SLACK, device)
    sentences = own.read(trunk, input_ids, attention_mask, sentence_mask, lower)
    remember(lower, sentences.states)
    states = own.trunk_states(trunk, sentences, sentence_mask, middle)  # (B,S+1,H)
    counts = sentence_mask.sum(1)
    inputs = own.inputs_of_rows(sentences, states)[:, : num_rows - 1]  # (B,L,H)
    if inputs.shape[1]:
        positions = torch.arange(num_rows - 1, device=device).expand(b, -1)
        visible = band(num_rows - 1, own.config.upper_window, device)[None, None]
        run_blocks(trunk, own.upper(trunk), inputs, visible, positions, upper)
    lower.lengths, upper.lengths = [end + 1 for end in ends], list(ends)
    middle.lengths = (counts + 1).tolist()
    rows = torch.arange(b, device=device)
    last = sentences.states[rows, torch.tensor(ends, device=device)]
    state = OwnState(middle, lower, upper, states[rows, counts][:, None], last, ends)
    _settle(model, state)
    return state


def step(
    model: SLLMModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    state: OwnState,
    run: Callable[[Tensor, Tensor, RowCache], Tensor] | None = None,
) -> None:
    """`reading.step`: what writing has not read of the sentence, or has read otherwise, is read now.

    Args: run: makes the trunk's states (B, 1, H) of vectors (B, 1, H) at positions (B, 1); default: as it is written.
    """
    own, trunk, device = _own(model), model.trunk, input_ids.device
    lengths = attention_mask.sum(1)  # (B,)
    known = [0] * len(lengths)
    if state.writing is not None:
        state.writing.give_back()
        known = [shared(*of_text) for of_text in zip(state.writing.kept, input_ids.tolist(), strict=True)]
        state.writing = None
    if not lengths.any():
        state.lower.lengths, state.upper.lengths = list(state.lower_held), list(state.upper_held)
        return
    ends = torch.tensor(state.ends, device=device)
    missing, first = _missing(state.lower, state.lower_held, lengths, known)
    if missing:
        at = (first[:, None] + torch.arange(missing, device=device)).clamp(max=input_ids.shape[1] - 1)
        depths = torch.arange(missing, device=device)
        within, positions = band(missing, missing, device), ends[:, None] + 1 + at
        read_lower(model, input_ids.gather(1, at), positions, state.lower, within, depths)
    state.lower.lengths = [held + n for held, n in zip(state.lower_held, lengths.tolist(), strict=True)]
    states = _recall(state.lower, state.lower_held, int(lengths.max()))  # (B,T,H)
    missing, first = _missing(state.upper, state.upper_held, lengths, [1 + n for n in known])
    if missing:
        offsets = first[:, None] + torch.arange(missing, device=device)  # (B,R)
        rows = torch.cat([state.last[:, None], states], dim=1)
        rows = rows.gather(1, offsets.clamp(max=rows.shape[1] - 1)[..., None].expand(-1, -1, rows.shape[-1]))
        inputs = own.upper_inputs(rows, *joined_of(own, state), offsets)
        depths = torch.arange(missing, device=device)
        visible = windowed(state.upper, band(missing, missing, device), depths, own.config.upper_window)
        run_blocks(trunk, own.upper(trunk), inputs, visible, ends[:, None] + offsets, state.upper)
    state.upper.lengths = [held + n for held, n in zip(state.upper_held, lengths.tolist(), strict=True)]
    alive = lengths > 0
    index = torch.arange(states.shape[1], device=device)
    mean = (states * (index < lengths[:, None])[..., None]).sum(1) / lengths[:, None].clamp(min=1)
    last = states[torch.arange(len(states), device=device), (lengths - 1).clamp(min=0)]  # (B,H)
    vectors = own.vector(last, mean)[:, None]
    if own.config.use_trunk:
        positions, cache = (ends + lengths)[:, None], state.past_key_values
        if run is None:
            seen = cache.visible(torch.ones(1, 1, dtype=torch.bool, device=device))
            new = run_blocks(trunk, own.middle(trunk), vectors, seen, positions, cache)
        else:
            new = run(vectors, positions, cache)
        cache.keep([[0]] * len(new) if alive.all() else [[0] * one for one in alive.tolist()])
        state.states = torch.where(alive[:, None, None], new, state.states)
    state.last = torch.where(alive[:, None], last, state.last)
    state.ends = (ends + lengths).tolist()
    _settle(model, state)


def shared(read: list[int], wanted: list[int]) -> int:
    """How many ids two lists begin with alike."""
    differing = (place for place, pair in enumerate(zip(read, wanted, strict=False)) if pair[0] != pair[1])
    return next(differing, min(len(read), len(wanted)))


def _missing(cache: RowCache, held: list[int], lengths: Tensor, known: list[int]) -> tuple[int, Tensor]:
    """How many rows of a sentence at most are not in a cache yet, and the first of them of each text (B,). What is
    behind them in the cache is not the sentence's."""
    read = [
        min(have - before, wanted, true)
        for have, before, wanted, true in zip(cache.lengths, held, lengths.tolist(), known, strict=True)
    ]
    cache.lengths = [before + n for before, n in zip(held, read, strict=True)]
    first = torch.tensor(read, device=lengths.device)
    return int((lengths - first).max()), first


def _settle(model: SLLMModel, state: OwnState) -> None:
    """Drop what has left the windows; what is held now is what the next sentence begins behind."""
    config = model.config
    _forget(state.lower, config, config.lower_window)
    _forget(state.upper, config, config.upper_window)
    state.lower_held, state.upper_held = list(state.lower.lengths), list(state.upper.lengths)


def rows_of_window(config: SLLMConfig, window: int) -> int:
    """The most rows of a text that a cache of a window holds, those of a sentence that is written among them."""
    return window + SLACK + config.max_sentence_tokens


def _forget(cache: RowCache, config: SLLMConfig, window: int) -> None:
    """Drop rows that no later one sees."""
    if max(cache.lengths) < window + SLACK:
        return
    kept = [min(length, window) for length in cache.lengths]
    first = torch.tensor(cache.lengths, device=cache.device) - torch.tensor(kept, device=cache.device)
    at = first[:, None] + torch.arange(max(kept), device=cache.device)  # (B,W)
    at[:, 0] = 0  # the opening token stays
    rows = torch.arange(len(kept), device=cache.device)[:, None]
    cache.lengths, cache.capacity = kept, rows_of_window(config, window)
    for number, layer in cache.layers.items():
        moved = [held[rows, :, at.clamp(max=held.shape[2] - 1)].transpose(1, 2) for held in layer]  # (B,heads,W,d)
        keys, values = (F.pad(held, (0, 0, 0, cache.capacity - held.shape[2])) for held in moved)
        cache.layers[number] = keys, values


STATES = -1  # the layer of the lower cache that holds states instead of keys


def remember(cache: RowCache, states: Tensor) -> None:
    cache.update(states[:, None], states.new_empty(*states.shape[:1], 1, states.shape[1], 0), STATES)


def _recall(cache: RowCache, held: list[int], num_tokens: int) -> Tensor:
    """(B, T, H) the lower blocks' states of the sentence's tokens."""
    states = cache.layers[STATES][0][:, 0]  # (B,C,H)
    at = torch.tensor(held, device=cache.device)[:, None] + torch.arange(num_tokens, device=cache.device)
    at = at.clamp(max=states.shape[1] - 1)
    return states[torch.arange(len(held), device=cache.device)[:, None], at]


def _part(cache: RowCache, texts: Sequence[int]) -> RowCache:
    part = RowCache(len(texts), cache.capacity, cache.device)
    part.lengths, part.layers = list(cache.lengths), dict(cache.layers)
    part.select(texts)
    return part


def _put(part: RowCache, whole: RowCache, texts: Sequence[int]) -> None:
    for number, layer in part.layers.items():
        filled = []
        nothing = tuple(x.new_zeros(len(whole.lengths), *x.shape[1:]) for x in layer)
        for own, held in zip(layer, whole.layers.get(number, nothing), strict=True):
            more = own.shape[2] - held.shape[2]
            if more > 0:
                held = torch.cat([held, held.new_zeros(*held.shape[:2], more, held.shape[3])], dim=2)
            held[texts, :, : own.shape[2]] = own
            filled.append(held)
        whole.layers[number] = filled[0], filled[1]
    for row, text in enumerate(texts):
        whole.lengths[text] = part.lengths[row]


def _own(model: SLLMModel) -> OwnLayers:
    assert model.own is not None
    return model.own
