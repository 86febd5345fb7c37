"""Losslessness: every way is found lossless, and one that is not is found out."""

import copy

import pytest
import torch
from counting import PROMPTS, TREE, accept_everything, always_the_same
from counting import counter as make_counter
from tiny import make_mtp

from multitoken import draft_loop
from multitoken.benchmarks.losslessness import compare_texts, differences, sampling_test
from multitoken.benchmarks.measuring import Way, accepted_counts, ways_of


@pytest.fixture(scope="module")
def counter():
    return make_counter()


def test_every_way_is_found_lossless(counter):
    ways = ways_of(3, TREE)
    assert [way.name for way in ways] == ["plain", "2 heads", "3 heads", "tree", "auto", "auto tree"]
    compared = compare_texts(copy.deepcopy(counter), PROMPTS, ways, [1, 2], 12, ["fp32", "fp64"])
    assert set(compared) == {(way.name, size) for way in ways for size in (1, 2)}
    assert {entry.verdict for entry in compared.values()} == {"yes"}
    found = compared["3 heads", 2].statistics
    assert sum(accepted_counts(found)) == found.offered[0]
    assert sum(n * times for n, times in enumerate(accepted_counts(found))) == sum(found.accepted) > 0


def test_a_lossy_decoder_is_found_out(counter, monkeypatch):
    monkeypatch.setattr(draft_loop, "verify", accept_everything)
    ways = ways_of(3, None)
    compared = compare_texts(copy.deepcopy(counter), PROMPTS, ways, [1], 12, ["fp32", "fp64", "bf16"])
    assert compared["plain", 1].verdict == "yes"
    lossy = compared["3 heads", 1]
    assert "differ in fp64" in lossy.verdict
    assert "differ in fp32" in lossy.verdict
    assert "bf16" not in lossy.verdict
    assert all((d.gap or 1) > 1e-4 and d.plain != d.drafted for d in lossy.faults("fp32"))


def test_only_logits_that_are_close_make_a_tie():
    model = always_the_same([7, 9])
    with torch.no_grad():
        model.unembedding(1)[9] = model.unembedding(1)[7]
    (tie,) = differences(model, [[2, 3]], [[7, 7]], [[7, 9]])
    assert (tie.position, tie.plain, tie.drafted, tie.is_tie) == (1, 7, 9, True)
    (third,) = differences(model, [[2, 3]], [[7]], [[5]])  # the two highest are level, but 5 is neither
    assert not third.is_tie
    (over,) = differences(model, [[2, 3]], [[7]], [[]])
    assert not over.is_tie


@pytest.mark.parametrize("way", [Way("3 heads", 3), Way("tree", 3, TREE)], ids=lambda way: way.name)
def test_sampled_texts_are_the_models_or_found_out(way, monkeypatch):
    model = make_mtp(opt=dict(vocab_size=8, max_position_embeddings=16))
    found = sampling_test(model, [2, 5], way, 1.0, 900, num_ranks=4, seed=1)
    assert found.num_cells > 10
    assert found.verdict == "yes"
    monkeypatch.setattr(draft_loop, "verify", accept_everything)
    assert sampling_test(model, [2, 5], way, 1.0, 900, num_ranks=4, seed=1).verdict.startswith("NO: p = ")


def test_a_certain_model_cannot_be_tested_by_drawing():
    found = sampling_test(always_the_same([7]), [2, 5], Way("2 heads", 2), 0.01, 50)
    assert (found.p_value, found.verdict) == (None, "not tested")
