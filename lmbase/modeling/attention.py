"""Attention by the kernel that is fastest where it runs.

B texts or sentences, H heads, T queries, M keys, d width of a head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lmbase.modeling.devices import kernels_of
from lmbase.modeling.one_row import row_attention

PLAIN_SCORES = 1024 * 1024  # of a head: beyond, the fused kernel wins on CPUs, too
NAME = "sdpa_or_plain"


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention (B,H,T,d) over keys and values (B,H,M,d).

    PyTorch's fused kernel, except in bfloat16 on a CPU: there it computes in float32, one product for each head, and
    plain products are up to 12 times faster until the texts are long.

    Args:
        mask: (B|1, H|1, T|1, M) True where a query may look, or what is added to its scores.
        causal: query t sees keys 0..t.
    """
    assert mask is None or not causal, "a mask says it all"
    if _plain_wins(q, k):
        return _plain(q * q.shape[-1] ** -0.5, k, v, mask, causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _plain_wins(q: Tensor, k: Tensor) -> bool:
    return kernels_of(q) == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] * k.shape[-2] <= PLAIN_SCORES


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """The textbook's formula, of queries that are scaled already."""
    scores = q @ k.transpose(-1, -2)  # (B,H,T,M)
    lowest = torch.finfo(q.dtype).min  # not -inf: a row that sees nothing is no NaN
    if causal:
        scores = scores + torch.full(scores.shape[-2:], lowest, dtype=q.dtype, device=q.device).triu(1)
    elif mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, lowest)
    elif mask is not None:
        scores = scores + mask.to(q.dtype)
    return scores.softmax(-1) @ v


def _of_transformers(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """`attention` in the form that Transformers' models call."""
    if _row_is_compiled(query) and attention_mask is not None and attention_mask.dtype == torch.bool:
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        return row_attention(query, key, value, attention_mask, scaling), None
    if dropout or not _plain_wins(query, key):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    causal = attention_mask is None and query.shape[-2] > 1
    if query.shape[1] == key.shape[1]:
        return _plain(scaled, key, value, attention_mask, causal).transpose(1, 2), None
    groups = scaled.unflatten(1, (key.shape[1], -1))  # (B,K,H/K,T,d): queries that share keys and values
    mask = attention_mask if attention_mask is None else attention_mask[:, :, None]
    y = _plain(groups, key[:, :, None], value[:, :, None], mask, causal)
    return y.flatten(1, 2).transpose(1, 2), None


def _row_is_compiled(query: Tensor) -> bool:
    return torch.compiler.is_compiling() and query.device.type == "cpu" and query.shape[-2] == 1


def added_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What rows may see, a mask of bools, as what is added to their scores: 0, or the lowest number."""
    lowest = torch.finfo(dtype).min  # not -inf: a row that sees nothing is no NaN
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, lowest)


def use_fast_attention(model: PreTrainedModel) -> None:
    """Let a model of Transformers attend as above, unless another way than its default was asked for."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


AttentionInterface.register(NAME, _of_transformers)
AttentionMaskInterface.register(NAME, sdpa_mask)


def causal_places(input_ids: Tensor, attention_mask: Tensor | None, most: int) -> tuple[Tensor, Tensor | None]:
    """Positions (B, L) of rows of ids, padded on either side, and what each sees, (B, 1, L, L) bool; None is all before
    it, which will do where padding is on the right only.

    Raises:
        ValueError: rows without an id, or longer than the model has positions, `most`.
    """
    if not input_ids.shape[1]:
        raise ValueError("Rows of no ids: a text has at least the one that opens it.")
    if input_ids.shape[1] > most:
        raise ValueError(
            f"Rows of {input_ids.shape[1]} ids, and the model has {most} positions: cut them into shorter ones."
        )
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    if attention_mask is None or not (attention_mask[:, 1:] > attention_mask[:, :-1]).any():
        return places.expand_as(input_ids), None
    itself, before = places[:, None] == places, places[:, None] >= places
    # a padded position sees itself: a row without anything to look at has no softmax
    seen = before & attention_mask[:, None].bool() | itself
    return (attention_mask.cumsum(1) - 1).clamp(min=0), seen[:, None]
