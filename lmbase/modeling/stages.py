"""Stages of a trunk, run apart: its embeddings, some of its blocks, what follows the last one.

B texts, R rows of a pass, C positions that are looked at, D width of the vocabulary table, H a trunk's own width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lmbase.modeling.attention import added_mask
from lmbase.modeling.cache import CACHE_KEY
from lmbase.modeling.trunk import family_of, part_at


class BlockRunner:
    """Runs blocks of a trunk outside of it, on states at given positions.

    Args:
        states: (B, R, H), for their dtype and device.
        mask: what the blocks' attention takes: (B|1, 1, R, C), or None for its own causal one.
        positions: (B, R).
    """

    def __init__(self, trunk: PreTrainedModel, states: Tensor, mask: Tensor | None, positions: Tensor, cache: Any):
        self.options: dict[str, Any] = dict(attention_mask=mask, position_ids=positions, use_cache=cache is not None)
        self.options[CACHE_KEY] = cache
        rotary = getattr(trunk, "rotary_emb", None)
        if rotary is not None:
            self.options["position_embeddings"] = rotary(states, position_ids=positions)

    def __call__(self, block: nn.Module, states: Tensor) -> Tensor:
        found = block(states, **self.options)
        return found[0] if isinstance(found, tuple) else found


def embed(trunk: PreTrainedModel, input_ids: Tensor, positions: Tensor) -> Tensor:
    """Ids and their positions (B, R) -> what a trunk's first block reads (B, R, H)."""
    family = family_of(trunk)
    table: Any = trunk.get_input_embeddings()
    states = table(input_ids)
    widening = part_at(trunk, family.widening)
    if widening is not None:
        states = widening(states)
    learned: Any = part_at(trunk, family.positions)
    if learned is not None:
        states = states + F.embedding(positions + family.first_position, learned.weight)
    return states


def run_blocks(
    trunk: PreTrainedModel,
    blocks: Iterable[nn.Module],
    states: Tensor,
    visible: Tensor,
    positions: Tensor,
    cache: Any = None,
) -> Tensor:
    """Some blocks on states (B, R, H) at positions (B, R).

    Args:
        visible: (B|1, 1, R, C) bool, what each row sees.
        cache: keys and values of earlier rows; default: none.
    """
    run = BlockRunner(trunk, states, added_mask(visible, states.dtype), positions, cache)
    for block in blocks:
        states = run(block, states)
    return states


def finish(trunk: PreTrainedModel, states: Tensor) -> Tensor:
    """States (..., H) after the last block -> what is multiplied with the vocabulary table (..., D)."""
    family = family_of(trunk)
    for part in (part_at(trunk, family.norm), part_at(trunk, family.projection)):
        if part is not None:
            states = part(states)
    return states


def band(num_rows: int, window: int, device: torch.device) -> Tensor:
    """(R, R) bool: each row sees itself, the `window` - 1 before it, and the first one."""
    index = torch.arange(num_rows, device=device)
    apart = index[:, None] - index  # (R,R)
    return (apart >= 0) & ((apart < window) | (index == 0))
