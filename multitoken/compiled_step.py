"""The step of a MultiTokenLM as a function of tensors whose shapes recur, compiled, with a cache of fixed size.

B texts, R rows of a pass, C positions of a cache, D width.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from lmbase.modeling.cache import FixedRows, RowCache, take_fixed_cache
from lmbase.modeling.compiling import check_attention, compiled, compiled_for, lanes_of
from lmbase.modeling.one_row import row_twin
from lmbase.modeling.packed import PackedLinear
from lmbase.modeling.trunk import key_value_shape
from multitoken.modeling_multitoken import MultiTokenModel

PLACES = 256  # the cache grows by so many, so that few shapes are compiled


def compiled_step(model: MultiTokenModel, config: GenerationConfig) -> Callable | None:
    """What `MultiTokenModel.step` reads rows with, if a call's configuration wants caches of fixed size.

    Raises:
        ValueError: attention that takes no mask.
    """
    if config.cache_implementation != "static":
        return None
    check_attention(model.config.trunk._attn_implementation)
    return compiled(_read_rows, config)


def _read_rows(
    model: MultiTokenModel,
    ids: Tensor,
    positions: Tensor,
    visible: Tensor,
    starts: Tensor,
    layers: list[tuple[Tensor, Tensor]],
) -> tuple[Tensor, list[Tensor]]:
    return model.read_rows(ids, positions, visible, FixedRows(layers, starts))


def row_step(model: MultiTokenModel, config: GenerationConfig) -> Callable | None:
    """What reads one token of one text, as `MultiTokenModel.step` and with what head 1 makes of it, as fast as a CPU
    does: ids (1, 1), their positions, a cache of fixed size -> the trunk's states, those that `step` returns, head 1's
    as its vocabulary reads them (1, 1, D), logits (1, 1, V). None where steps are not compiled, or not for a CPU."""
    if config.cache_implementation != "static" or config.disable_compile or model.device.type != "cpu":
        return None
    packed = cast(list[PackedLinear], model.packed_tables)
    twin, head = row_twin(model, packed[0] if packed else model.unembedding(1), lanes_of(config))
    read = compiled_for(twin, _read_row, config)
    return lambda ids, positions, cache: read(head, ids, positions, cache.starts, list(cache.layers.values()))


def _read_row(
    twin: MultiTokenModel,
    head: nn.Module,
    ids: Tensor,
    positions: Tensor,
    starts: Tensor,
    layers: list[tuple[Tensor, Tensor]],
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    itself = torch.ones(1, 1, dtype=torch.bool)
    z, states = twin.read_rows(ids, positions, itself, FixedRows(layers, starts))
    hidden = twin.finish(states[0])
    return z, states, hidden, head(hidden)


def trunk_cache(model: MultiTokenModel, num_texts: int, capacity: int) -> RowCache:
    """An empty cache of fixed size for the trunk and the heads that `step` reads."""
    layers = model.config.trunk.num_hidden_layers + model.num_read_heads * model.kind.is_block
    heads, width = key_value_shape(model.config.trunk)
    shape = num_texts, heads, -(-capacity // PLACES) * PLACES, width
    return take_fixed_cache(model, "trunk", layers, shape, model.get_input_embeddings().weight)
