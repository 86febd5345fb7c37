"""A token-level model that keeps a window of tokens and the sentence ends: the rival of a sentence model for memory.

Position t reads the opening token, the last `window` tokens (itself among them), and of all earlier ones those that end
a sentence. Positions stay the true ones, so no weight changes. The parallel path hides the rest by a mask, the path
that generates forgets it; both tell ends alike (`lmbase.text.sentence_ends`), so both give the same scores.

B texts, L positions, R rows of a pass, C places of a cache, H heads, d width of a head, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedConfig, PreTrainedModel, StoppingCriteriaList

from lmbase.modeling.attention import added_mask
from lmbase.modeling.cache import CACHE_KEY
from lmbase.modeling.inference import inference
from lmbase.text.processor import SentenceProcessor
from lmbase.text.sentence_ends import SentenceEnds

PROMPT_ROWS = 256  # of a prompt that are read at once: what a long one holds beyond what is kept
NOTHING = -1  # the position of padding, and of an empty place in the cache


@dataclass(frozen=True)
class KeptWindow:
    """What is kept.

    Args:
        window: newest tokens.
        processor: cuts the text whose sentence ends are kept; None: no ends are.
    """

    window: int
    processor: SentenceProcessor | None = None

    @classmethod
    def of(
        cls, config: PreTrainedConfig, own_processor: Callable[[], SentenceProcessor], context: int | None = None
    ) -> "KeptWindow | None":
        """What a model keeps by its configuration; None: everything.

        Args:
            own_processor: gives what cuts its sentences.
            context: positions that it reads at once; default: as it was trained, else all that it has.
        """
        if (window := getattr(config, "keep_window", None)) is None:
            return None
        keep = cls(window, own_processor() if getattr(config, "keep_ends", True) else None)
        return keep.checked(context or getattr(config, "training_context", config.max_position_embeddings))

    def checked(self, context: int) -> "KeptWindow":
        """Itself; ValueError if its window is no number from 1 to the positions that a model reads at once."""
        if isinstance(self.window, bool) or not isinstance(self.window, int) or not 1 <= self.window <= context:
            raise ValueError(
                f"keep_window={self.window!r}: of the {context} positions that this model reads the newest 1 to "
                f"{context} can be kept; leave keep_window out and it keeps all."
            )
        return self

    def visible(self, queries: Tensor, keys: Tensor, ends: Tensor) -> Tensor:
        """What rows at positions (B|1, R) see of what stands at positions (B|1, C): (B, 1, R, C) bool.

        Args:
            ends: (B, C) bool, what is settled to end a sentence by the time that it leaves the window.
        """
        query, key = queries[:, :, None], keys[:, None]
        kept = (key == 0) | (key > query - self.window) | ends[:, None]
        real = (key != NOTHING) | (query == NOTHING)  # padding sees padding: a row that sees nothing has no softmax
        return (real & (key <= query) & kept)[:, None]

    def end_finder(self) -> SentenceEnds | None:
        """What finds the sentence ends of one more text."""
        return None if self.processor is None else SentenceEnds(self.processor, self.window)

    def states(self, trunk: PreTrainedModel, input_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Last states (B, L, D) of rows that begin with the opening token, all at once.

        Args:
            input_ids: (B, L), padded on the right. lengths: without the padding.
        """
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]  # (1,L)
        ends = torch.zeros_like(input_ids, dtype=torch.bool)
        for b, (row, length) in enumerate(zip(input_ids.tolist(), lengths, strict=True)):
            if finder := self.end_finder():
                finder.read(row[1:length])
                ends[b, finder.found] = True
        mask = self.visible(positions, positions, ends)
        return trunk(
            input_ids=input_ids,
            attention_mask=_mask(trunk, mask),
            position_ids=positions.expand_as(input_ids),
            use_cache=False,
        ).last_hidden_state


def _mask(model: PreTrainedModel, visible: Tensor) -> Tensor:
    """What attention takes: eager attention adds it to scores."""
    return added_mask(visible, model.dtype) if model.config._attn_implementation == "eager" else visible


class ForgettingCache:
    """Transformers' cache interface for attention layers, of texts of which some positions are forgotten.

    Attributes:
        positions: (B, C) where in its text stands what is held; NOTHING: the place is empty.
    """

    def __init__(self, batch_size: int, device: torch.device):
        self.positions = torch.full((batch_size, 0), NOTHING, device=device)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values (B, H, C, d)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Add (B, H, R, d) behind what is held; returns all of it."""
        if held := self.layers.get(layer_idx):
            keys, values = (torch.cat(pair, dim=2) for pair in zip(held, (keys, values), strict=True))
        self.layers[layer_idx] = keys, values
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # the caller says positions and mask

    def forget(self, kept: Tensor) -> None:
        """Hold only what is kept (B, C), and as many places as the text needs that keeps most."""
        width = int(kept.sum(1).max())
        order = (~kept).long().argsort(dim=1, stable=True)[:, :width]  # (B,C)
        self.positions = self.positions.masked_fill(~kept, NOTHING).gather(1, order)
        for number, layer in self.layers.items():
            keys, values = (x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])) for x in layer)
            self.layers[number] = keys, values

    @property
    def num_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(x.nbytes for layer in self.layers.values() for x in layer)


class KeptReader:
    """Reads B texts pass after pass, each beginning with the opening token, and forgets what is not kept."""

    def __init__(self, lm: PreTrainedModel, keep: KeptWindow, batch_size: int):
        self.lm, self.keep = lm, keep
        self.cache = ForgettingCache(batch_size, lm.device)
        self.num_read = torch.zeros(batch_size, dtype=torch.long, device=lm.device)
        self.ends = torch.zeros(batch_size, 0, dtype=torch.bool, device=lm.device)  # (B, L) by position
        self._finders = [keep.end_finder() for _ in range(batch_size)]

    def read(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, V) after the last row of the next ids (B, R).

        Args:
            mask: (B, R) bool; padding stands on the left.
        """
        logits = torch.empty(0)
        for ids, real in zip(input_ids.split(PROMPT_ROWS, dim=1), mask.split(PROMPT_ROWS, dim=1), strict=True):
            logits = self._read(ids, real)
        return logits

    def _read(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        positions = (self.num_read[:, None] + mask.cumsum(1) - 1).masked_fill(~mask, NOTHING)  # (B,R)
        self._find_ends(input_ids, mask)
        cache = self.cache
        cache.positions = torch.cat([cache.positions, positions], dim=1)
        visible = self.keep.visible(positions, cache.positions, self._ends_held())
        logits = self.lm(
            input_ids=input_ids,
            attention_mask=_mask(self.lm, visible),
            position_ids=positions.clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **{CACHE_KEY: cast(Any, cache)},
        ).logits[:, -1]
        self.num_read = self.num_read + mask.sum(1)
        # What the newest row sees: of every token that leaves its window it is settled whether it ends a sentence.
        newest = self.num_read[:, None] - 1
        cache.forget(self.keep.visible(newest, cache.positions, self._ends_held())[:, 0, 0])
        return logits

    def _find_ends(self, input_ids: Tensor, mask: Tensor) -> None:
        """Settle the ends that the new tokens tell."""
        before, after = self.num_read.tolist(), (self.num_read + mask.sum(1)).tolist()
        self.ends = F.pad(self.ends, (0, max(after) - self.ends.shape[1]))
        for b, finder in enumerate(self._finders):
            if finder is not None:
                known = len(finder.found)
                finder.read(input_ids[b, mask[b]].tolist()[before[b] == 0 :])  # the opening token is no text
                self.ends[b, finder.found[known:]] = True

    def _ends_held(self) -> Tensor:
        return self.ends.gather(1, self.cache.positions.clamp(min=0))  # (B,C)


@dataclass
class KeptWriter:
    """Given to Transformers' `generate` of a language model as `custom_generate`: greedy writing of what its logits
    processors leave.

    Attributes:
        streamer: handed the prompt, then each token.
        reader: what has read the last call's texts.
    """

    keep: KeptWindow
    streamer: Any = None
    reader: KeptReader | None = field(default=None, init=False)
    statistics: None = field(default=None, init=False)  # nothing is drafted

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        **given: Any,
    ) -> Tensor:
        """Returns (B, L) prompts, padded on the left, and new ids."""
        pad = given["generation_config"].pad_token_id
        if self.streamer is not None:
            self.streamer.put(input_ids.cpu())
        self.reader = KeptReader(model, self.keep, len(input_ids))
        mask = given.get("attention_mask")  # none where nothing is padded
        mask = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
        goes_on = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)  # (B,)
        with inference(model):
            while goes_on.any():
                logits = self.reader.read(input_ids[:, -mask.shape[1] :], mask).float()
                scores = logits_processor(cast(torch.LongTensor, input_ids), cast(torch.FloatTensor, logits))
                new = torch.where(goes_on, scores.argmax(-1), pad)  # (B,)
                input_ids, mask = torch.cat([input_ids, new[:, None]], dim=1), goes_on[:, None]
                if self.streamer is not None:
                    self.streamer.put(new.cpu())
                goes_on = goes_on & ~stopping_criteria(cast(torch.LongTensor, input_ids), cast(Any, None)).bool()
        return input_ids
