"""Attention gives the same by every kernel."""

import pytest
import torch
from transformers import OPTConfig, OPTModel

from lmbase.modeling.attention import NAME, attention, use_fast_attention


def reference(q, k, v, mask, causal):
    seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril() if causal else mask
    bias = 0 if seen is None else seen if seen.is_floating_point() else torch.zeros_like(seen, dtype=q.dtype)
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    if seen is not None and not seen.is_floating_point():
        scores = scores.masked_fill(~seen, float("-inf"))
    return (scores + bias).softmax(-1) @ v


MASKS = {
    "all": (None, False),
    "causal": (None, True),
    "some": (torch.tensor([True, False, True, True, False, True, True])[None, None, None], False),
    "biased": (torch.randn(1, 4, 1, 7, generator=torch.Generator().manual_seed(3)), False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", MASKS)
def test_attention_is_the_formula(kind, dtype):
    mask, causal = MASKS[kind]
    generator = torch.Generator().manual_seed(1)
    queries = 7 if causal else 5
    q, k, v = (torch.randn(2, 4, n, 8, generator=generator, dtype=torch.float64) for n in (queries, 7, 7))
    wanted = reference(q, k, v, mask if mask is None or mask.dtype == torch.bool else mask.double(), causal)
    if mask is not None and mask.is_floating_point():
        mask = mask.to(dtype)
    found = attention(q.to(dtype), k.to(dtype), v.to(dtype), mask, causal)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.06)


def test_a_row_that_sees_nothing_is_finite():
    q, k, v = (torch.randn(1, 1, 3, 4, dtype=torch.bfloat16) for _ in range(3))
    assert attention(q, k, v, torch.zeros(1, 1, 3, 3, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize("length", [12, 1032])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trunk_is_the_same_with_it(length, dtype):
    config = OPTConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, word_embed_proj_dim=32
    )
    torch.manual_seed(0)
    opt = OPTModel(config).eval().to(dtype)
    ids = torch.randint(4, 50, (2, length))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    with torch.no_grad():
        stock = opt(ids, attention_mask=mask).last_hidden_state[mask.bool()]
        use_fast_attention(opt)
        assert opt.config._attn_implementation == NAME
        ours = opt(ids, attention_mask=mask).last_hidden_state[mask.bool()]
        unmasked = opt(ids[:1]).last_hidden_state
        cached = opt(ids[:1, :-1], use_cache=True)
        last = opt(ids[:1, -1:], past_key_values=cached.past_key_values).last_hidden_state
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(ours.float(), stock.float(), rtol=0, atol=tolerance)
    torch.testing.assert_close(unmasked[0].float(), ours[:length].float(), rtol=0, atol=tolerance)
    torch.testing.assert_close(last[0].float(), unmasked[0, -1:].float(), rtol=0, atol=tolerance)


def test_another_way_that_was_asked_for_stays():
    config = OPTConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=64)
    opt = OPTModel(config)
    opt.set_attn_implementation("eager")
    use_fast_attention(opt)
    assert opt.config._attn_implementation == "eager"
