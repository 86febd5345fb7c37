"""Settings of a generate call, and how a token is chosen."""

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList

from lmbase.modeling.decoding import GumbelNoise, Sampler

PLACES = [(0, 0), (1, 0)]
LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 3.0, -9.0]])


def sampler(seed=0, processors=None, **settings):
    return Sampler(GenerationConfig(**settings), 4, "cpu", seed, processors)


def test_greedy_takes_the_most_probable():
    assert sampler().choose(LOGITS, PLACES).tolist() == [0, 2]
    assert sampler().yes(torch.tensor([-0.1, 0.1]), PLACES) == [False, True]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, LOGITS.softmax(-1)),
        ({"temperature": 0.5}, (LOGITS / 0.5).softmax(-1)),
        ({"top_k": 1}, torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0]])),
        ({"top_p": 0.5}, torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0]])),
    ],
)
def test_draws_follow_the_warped_distribution(settings, expected):
    draw = sampler(do_sample=True, **settings)
    draws = torch.stack([draw.choose(LOGITS, [(0, i), (1, i)]) for i in range(5000)])
    counts = torch.stack([draws[:, b].bincount(minlength=4) for b in range(2)]) / len(draws)
    torch.testing.assert_close(counts, expected, atol=0.03, rtol=0)


def test_yes_is_drawn_with_its_probability():
    draw, odds = sampler(do_sample=True), torch.tensor([-1.0, 2.0])
    yes = torch.tensor([draw.yes(odds, [(0, i), (1, i)]) for i in range(5000)]).float().mean(0)
    torch.testing.assert_close(yes, odds.sigmoid(), atol=0.03, rtol=0)


def test_logits_processors_see_what_was_written():
    """One that forbids the tokens so far."""

    def forbid(input_ids, scores):
        assert len(input_ids) == len(scores) == 1
        return scores.scatter(1, input_ids, -torch.inf)

    choose = sampler(0, LogitsProcessorList([forbid]))
    before = [[0, 2, 3], [2]]
    assert choose.choose(choose.process(LOGITS, lambda row: before[row]), PLACES).tolist() == [1, 0]


def test_a_seed_repeats_draws():
    def draws(seed):
        draw = sampler(seed, do_sample=True)
        return [draw.choose(LOGITS, [(0, i), (1, i)]).tolist() for i in range(20)]

    assert draws(0) == draws(0) != draws(1)
    torch.manual_seed(0)
    free = draws(None)
    torch.manual_seed(0)
    assert draws(None) == free


def test_a_choice_does_not_depend_on_when_it_is_made():
    early, late = (sampler(3, do_sample=True) for _ in range(2))
    last = late.choose(LOGITS, [(0, 9), (1, 9)])
    for i in range(9):
        early.choose(LOGITS, [(0, i), (1, i)])
        early.forget(0, i)
    assert torch.equal(early.choose(LOGITS, [(0, 9), (1, 9)]), last)


def test_noise_belongs_to_a_place_in_a_text():
    one, other = (GumbelNoise(5, "cpu", seed=3) for _ in range(2))
    late = other.at([(1, 4)])
    for position in range(5):
        value = one.at([(1, position)])
    assert torch.equal(late, value)
    assert not torch.equal(one.at([(0, 4)]), value)
    one.forget(1, 4)
    assert torch.equal(one.at([(1, 4)]), value)
