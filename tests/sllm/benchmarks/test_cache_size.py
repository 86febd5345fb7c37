"""Bytes of the cache: counted by rule, as real caches have them, and as a process grows."""

import itertools
from typing import Literal

import pytest
import torch
from tiny import CAP, make_processor
from transformers import DynamicCache

from lmbase.benchmarking.timing import cache_bytes
from lmbase.report.rows import Row
from lmbase.text import RULES
from lmbase.text.padding import pad_sentences
from sllm.benchmarks.cache_size import Cache, Resident, lengths_by_rule
from sllm.benchmarks.replaying import Build

PAD = 1
LENGTHS = [3, 1, 7, CAP, 5]
BUILD = Build("tiny", 512, num_future_tokens=3)


@pytest.mark.filterwarnings("ignore:rule .sentence. found no Punkt model")
def test_rules_cut_the_same_text():
    texts = ["He said, no.\nThen he left! Did he?", "Yes, no. Yes."]
    found = lengths_by_rule(texts, make_processor())
    assert list(found) == [rule for rule in RULES if rule != "learned"]
    assert {sum(lengths) for lengths in found.values()} == {sum(map(len, texts))}  # a token is a byte here
    assert found["auto"] == found["punctuation"]
    assert len(found["line"]) < len(found["sentence"]) < len(found["punctuation"])
    assert set(lengths_by_rule(texts, make_processor("learned"))) == set(RULES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counted_bytes_are_those_of_a_real_cache(dtype):
    """Of the trunk and of the sentence decoder, after writing."""
    build = Build("tiny", 512, num_memory_states=3, num_memory_tokens=5)
    opt = build.lm().to(dtype).eval()
    name: Literal["fp32", "bf16"] = "bf16" if dtype == torch.bfloat16 else "fp32"
    plain, *by_rule = Cache(dtype=name).rows(build, {"line": [8, 4], "sentence": [2]})
    ids = torch.tensor([[2, *range(10, 20)]])
    cache = opt(ids, past_key_values=DynamicCache(config=opt.config), use_cache=True).past_key_values
    assert plain.kv_bytes_per_token == cache_bytes(cache) / 11
    sllm = build.sllm(opt).to(dtype)
    sllm.replay([6], itertools.repeat(0))
    output = sllm.generate(torch.tensor([[[10] * 6] * 4]), max_new_tokens=12, min_new_tokens=12)
    held = output.cache
    assert held is output.past_key_values
    for row, tokens in zip(by_rule, (6, 2), strict=True):
        assert row.kv_bytes_per_token == cache_bytes(held) / held.get_seq_length() / tokens
        assert row.extra["kv_ratio"] == pytest.approx(1 / tokens)
        assert row.extra["sentences_per_1000_tokens"] == pytest.approx(1000 / tokens)
    state = sllm.prefill(**vars(pad_sentences([[[10] * 6]], PAD)))
    written = sllm.start_sentence(state)
    sllm.autoencoder.decoder.read(sllm.get_input_embeddings()(torch.tensor([[2]])), written)
    held_by_decoder = [*written.cache.layers.values(), *(memory.keys_values for memory in written.memories or [])]
    assert by_rule[0].extra["fixed_cache_bytes"] == sum(t.nbytes for pair in held_by_decoder for t in pair)


def test_growth_is_read_where_contexts_are_reached():
    contexts, build = [20, 40, 300], Build("tiny", 512, num_memory_states=3, num_memory_tokens=5)
    for name in (build.lm_name, build.sllm_name):
        found = Resident(dtype="fp32", device="cpu").grow(build, name, LENGTHS, contexts)
        for (tokens, *_), context in zip(found, contexts, strict=True):
            assert context <= tokens < context + max(LENGTHS)
        few, more, many = (held for _, held, _ in found)
        assert few < more < many


def resident(contexts: list[int], dtype: Literal["fp32", "bf16"]) -> list[Row]:
    subset = Resident(context_tokens=contexts, dtype=dtype, device="cpu")
    return [row for part in subset.parts(BUILD, LENGTHS) for row in part()]


@pytest.mark.long
def test_rows_of_resident_memory():
    with pytest.raises(ValueError, match="two at least"):
        resident([64], "fp32")
    with pytest.raises(ValueError, match="--dtype fp32"):
        resident([64, 128], "bf16")
    opt, sllm = resident([256, 512], "fp32")
    assert {"resident_bytes_per_token", "resident_over_counted"} <= set(opt.extra) & set(sllm.extra)
    assert 2 * (sllm.kv_bytes_per_token or 0) < (opt.kv_bytes_per_token or 0)
