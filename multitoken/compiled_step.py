"""The step of a MultiTokenLM as a function of tensors whose shapes recur, compiled, with a cache of fixed size.

B texts, R rows of a pass, C positions of a cache, D width.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import GenerationConfig

from lmbase.modeling.cache import FixedRows, RowCache, take_fixed_cache
from lmbase.modeling.compiling import check_attention, compiled

if TYPE_CHECKING:
    from multitoken.modeling_multitoken import MultiTokenLM

PLACES = 256  # the cache grows by so many, so that few shapes are compiled


def compiled_step(model: "MultiTokenLM", config: GenerationConfig) -> Callable | None:
    """What `MultiTokenLM.step` reads rows with, if a call's configuration wants caches of fixed size.

    Raises:
        ValueError: attention that takes no mask.
    """
    if config.cache_implementation != "static":
        return None
    check_attention(model.config.trunk._attn_implementation)
    return compiled(_read_rows, config)


def _read_rows(
    model: "MultiTokenLM",
    ids: Tensor,
    positions: Tensor,
    visible: Tensor,
    starts: Tensor,
    layers: list[tuple[Tensor, Tensor]],
) -> tuple[Tensor, list[Tensor]]:
    return model.read_rows(ids, positions, visible, FixedRows(layers, starts))


def trunk_cache(model: "MultiTokenLM", num_texts: int, capacity: int) -> RowCache:
    """An empty cache of fixed size for the trunk and the heads that `step` reads."""
    config, trunk = model.config, model.config.trunk
    heads_read = {"linear": 0, "anticausal": len(model.heads)}.get(config.head_kind, 1)
    heads, places = trunk.num_attention_heads, -(-capacity // PLACES) * PLACES
    shape = num_texts, heads, places, trunk.hidden_size // heads
    like = model.get_input_embeddings().weight
    return take_fixed_cache(model, "trunk", trunk.num_hidden_layers + heads_read, shape, like)
