"""Timed calls of SLLMs and multi-token models: what is counted."""

import pytest
import torch
from families import make_family_heads, make_family_sllm

from multitoken.benchmarks.measuring import position_bytes
from sllm.evaluation.timing import time_mtp, time_sllm


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_sllm_is_timed_from_sentences_and_from_text(batch_size):
    model = make_family_sllm("llama")
    found = time_sllm(model, torch.tensor([[[10, 11]]] * batch_size), 9, num_draft=1)
    assert (found.num_new_tokens, found.batch_size) == (9 * batch_size, batch_size)
    assert found.tokens_per_position > 0
    assert found.fixed_cache_bytes > 0
    assert (found.steady_rate is None) == (batch_size > 1) or found.num_cached_positions < 4
    assert time_sllm(model, "Hello, you", 9).num_new_tokens == 9


@pytest.mark.parametrize(("options", "drafts"), [({}, True), ({"num_draft": 1}, False), ({"num_copied": 2}, False)])
def test_a_multi_token_model_holds_the_further_heads_cache_where_they_draft(options, drafts):
    model = make_family_heads("llama")
    found = time_mtp(model, "Hello", 7, **options)
    assert found.cache_bytes_per_token == position_bytes(model, drafts)
    assert found.num_cached_tokens == 1 + 5 + 7 - 1
