"""Speed of all kinds side by side: columns, what is left out where positions end, what does not fit."""

import pytest
import torch
from families import loaded_as, make_family_heads, make_family_sllm, make_lm

from multitoken.benchmarks.measuring import bytes_of_heads
from sllm.evaluation.speed import compare_generation, opening, time_sllm, time_texts

TEXT = "One, two, three. Four and five! " * 3


@pytest.fixture(scope="module")
def models():
    return [
        loaded_as(make_lm("llama"), "plain"),
        loaded_as(make_family_heads("llama"), "heads"),
        loaded_as(make_family_sllm("llama"), "sllm"),
    ]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_sllm_is_timed_from_sentences_and_from_text(batch_size):
    model = make_family_sllm("llama")
    found = time_sllm(model, torch.tensor([[[10, 11]]] * batch_size), 12, num_draft=1)  # two beyond the cap
    assert (found.num_new_tokens, found.batch_size) == (12 * batch_size, batch_size)
    assert found.tokens_per_position > 0
    assert found.fixed_cache_bytes > 0
    assert (found.steady_rate is None) == (batch_size > 1) or found.num_cached_positions < 4
    assert time_sllm(model, "Hello, you", 9).num_new_tokens == 9
    assert time_sllm(model, "", 1).cache_bytes_per_token is None  # the start state's position stands for no text


def test_figures_of_every_kind(models):
    found = compare_generation(models, models[0], TEXT, 10, 8, 2)
    assert list(found) == ["plain", "heads", "sllm"]
    assert "speed_ratio" not in found["plain"]
    for name in ("heads", "sllm"):
        assert found[name]["speed_ratio_low"] <= found[name]["speed_ratio"] <= found[name]["speed_ratio_high"]
    assert all(figures["lookup_ratio"] > 0 for figures in found.values())


def test_several_texts_are_timed_together(models):
    for loaded in models:
        found = time_texts(loaded, ["One, two", "Three"], 5)
        assert (found.num_new_tokens, found.batch_size) == (10, 2)
        assert found.tokens_per_second > 0


def test_a_prompt_ends_without_space(models):
    assert opening(models[0], "One two", 4) == "One"  # which many tokenizers put in front of the next word


def test_F2_the_cache_of_a_multi_token_model_is_that_of_a_position_however_much_was_drafted(models):
    found = [compare_generation(models[:2], models[0], TEXT, 10, new, 1)["heads"] for new in (1, 6, 20)]
    assert {figures["kv_bytes_per_token"] for figures in found} == {bytes_of_heads(models[1].model, drafts=True)}
    assert {f["plain_kv_bytes_per_token"] for f in found} == {bytes_of_heads(models[1].model, drafts=False)}


def test_prompt_lookup_is_left_out_where_it_has_no_positions(models):
    found = compare_generation(models, models[0], TEXT, 52, 8, 1)
    assert "lookup_ratio" not in found["plain"]
    assert "lookup_ratio" in found["sllm"]


def test_more_than_there_are_positions_for_is_refused(models):
    with pytest.raises(ValueError, match="plain has 64 positions, too few for </s>, 60 prompt tokens and 5 new ones"):
        compare_generation(models, models[0], TEXT, 60, 5, 1)


def test_G9_noise_and_rounds_are_said(models, monkeypatch, capsys):
    monkeypatch.setattr("sllm.evaluation.speed.NOISY", 0.0)
    monkeypatch.setattr("sllm.evaluation.speed.MOST_SECONDS", 0.0)
    figures = compare_generation(models[:1], models[0], TEXT, 10, 4, 5)["plain"]
    assert figures["rounds"] == 2
    assert figures["tokens_per_second_low"] <= figures["tokens_per_second"] <= figures["tokens_per_second_high"]
    told = capsys.readouterr().out
    assert "2 rounds of 5" in told
    assert "noisy: plain wrote" in told
