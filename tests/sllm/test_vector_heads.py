"""Heads that draw vectors: the score that trains one against its formula, what a trained one draws."""

import math
from itertools import permutations, product
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from tiny import WIDTH, make_sllm
from transformers import PreTrainedConfig

from sllm.vector_heads import EnergyHead, FlowHead, energy_score, posterior_draws

GAUSSIAN = dict(latent="gaussian")
HEADS = {"energy": EnergyHead, "flow": FlowHead}


def config(kind: str, **options):
    return make_sllm(vae=GAUSSIAN, next_vector=kind, **options).config


def test_the_energy_score_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 5, 4, generator=generator)
    for row in range(2):
        across = [math.dist(x[row, i].tolist(), y[row, m].tolist()) for i, m in product(range(3), range(5))]
        among = [math.dist(x[row, i].tolist(), x[row, j].tolist()) for i, j in permutations(range(3), 2)]
        expected = 2 * sum(across) / 15 - sum(among) / 6
        assert float(energy_score(x, y)[row]) == pytest.approx(expected, rel=1e-5)


def test_the_energy_score_is_least_at_the_true_distribution():
    """Wider, narrower and moved ones cost more, by more than chance."""
    generator = torch.Generator().manual_seed(1)
    noise, y = torch.randn(2000, 8, 2, generator=generator), torch.randn(2000, 16, 2, generator=generator)
    costs = {
        shift_scale: energy_score(noise * shift_scale[1] + shift_scale[0], y)
        for shift_scale in ((0.0, 1.0), (0.0, 0.5), (0.0, 1.7), (0.6, 1.0), (0.0, 0.0))
    }
    true = costs.pop((0.0, 1.0))
    for other in costs.values():
        difference = other - true
        assert float(difference.mean()) > 3 * float(difference.std()) / len(difference) ** 0.5


def test_draws_that_fall_together_have_a_gradient():
    """So a head begins, whose last layer is zero."""
    x = torch.zeros(1, 3, 4, requires_grad=True)
    energy_score(x, torch.ones(1, 2, 4)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_posterior_draws_have_its_mean_and_spread():
    mean, log_var = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, math.log(4.0)]])
    drawn = posterior_draws(mean, log_var, torch.tensor([7]), 20_000)[0]
    torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.tensor([1.0, 2.0]), atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", HEADS)
def test_draws_belong_to_keys_and_stand_still_at_temperature_0(kind):
    head = HEADS[kind](config(kind)).eval()
    states, keys = torch.randn(3, WIDTH), torch.tensor([1, 2, 3])
    with torch.no_grad():
        together = head.sample(states, keys)
        torch.testing.assert_close(together[1:2], head.sample(states[1:2], keys[1:2]))
        assert not torch.allclose(together, head.sample(states, keys + 9))
        torch.testing.assert_close(head.sample(states, keys, 0.0), head.sample(states, keys + 9, 0.0))


@pytest.mark.parametrize("kind", HEADS)
def test_a_trained_head_draws_both_halves_of_a_mixture(kind):
    """The state says which pair of places; a head that gave their mean would lie between them."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, vector_blocks=2, vector_draws=8, posterior_draws=1, flow_steps=6)
    head = HEADS[kind](cast(PreTrainedConfig, SimpleNamespace(**sizes))).train()
    head.start()
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    states, centres = torch.eye(8)[:2].repeat(64, 1), torch.tensor([[0.0], [3.0]]).repeat(64, 1)
    for step in range(200):
        mean = centres + torch.where(torch.rand(128, 1) < 0.25, -1.0, 1.0).expand(128, 8)
        loss = head.loss(states, mean, torch.full_like(mean, -4.0), torch.arange(128) + 128 * step).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = head.sample(states.repeat(8, 1), torch.arange(1024) + 10**9).mean(1)
    for first, centre in ((0, 0.0), (1, 3.0)):
        found = drawn[first::2] - centre
        assert 0.12 < float((found < 0).float().mean()) < 0.38  # planted: a quarter
        assert float((found.abs() - 1).abs().median()) < 0.3
