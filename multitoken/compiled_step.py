"""The step of a MultiTokenLM as a function of tensors whose shapes recur, compiled, with a cache of fixed size.

B texts, R rows of a pass, C positions of a cache, D width.
"""

from collections.abc import Callable

from torch import Tensor
from transformers import GenerationConfig

from lmbase.modeling.cache import FixedRows, RowCache, take_fixed_cache
from lmbase.modeling.compiling import check_attention, compiled
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


def trunk_cache(model: MultiTokenModel, num_texts: int, capacity: int) -> RowCache:
    """An empty cache of fixed size for the trunk and the heads that `step` reads."""
    layers = model.config.trunk.num_hidden_layers + model.num_read_heads * model.kind.is_block
    heads, width = key_value_shape(model.config.trunk)
    shape = num_texts, heads, -(-capacity // PLACES) * PLACES, width
    return take_fixed_cache(model, "trunk", layers, shape, model.get_input_embeddings().weight)
