"""Noise belongs to a sample: normal, uniform, and the same in whatever batch."""

import torch

from lmbase.modeling.noise import mixed, normal, sample_keys, uniform


def test_numbers_are_spread_as_they_should_and_neighbours_are_strangers():
    keys = sample_keys(0, 0, torch.arange(20_000))
    drawn = normal(keys, 8)
    assert abs(float(drawn.mean())) < 0.01
    assert abs(float(drawn.std()) - 1) < 0.01
    assert abs(float((drawn**4).mean()) - 3) < 0.1
    assert float(torch.corrcoef(torch.cat([drawn[:-1], drawn[1:]], 1).T).fill_diagonal_(0).abs().max()) < 0.03
    even = uniform(mixed(keys), 1)
    assert 0 < float(even.min()) < float(even.max()) < 1
    counts = torch.histc(even, 20, 0, 1)
    assert float((counts - 1000).abs().max()) < 150
    assert len(keys.unique()) == len(keys)


def test_a_sample_s_numbers_depend_on_seed_step_and_sample_only():
    keys = sample_keys(3, 7, torch.tensor([5, 9, 5]))
    drawn = normal(keys, 4)
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(normal(sample_keys(3, 7, torch.tensor([9])), 4)[0], drawn[1])
    assert torch.equal(normal(keys, 2), drawn[:, :2])
    for seed, step in ((3, 8), (4, 7), (2**70, 7)):
        assert not torch.equal(normal(sample_keys(seed, step, torch.tensor([5])), 4)[0], drawn[0])
