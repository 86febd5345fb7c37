"""Kinds of latents: what is drawn, and what it costs."""

import torch
from tiny import WIDTH, make_sentences, make_vae


def test_the_gaussian_latent_is_drawn_in_training_and_is_its_mean_else():
    vae = make_vae(latent="gaussian")
    ids, mask = make_sentences(20)
    assert torch.equal(vae.encode(ids, mask), vae.encode(ids, mask))
    mean = vae.encode(ids, mask)
    vae.train()
    torch.manual_seed(0)
    draws = torch.stack([vae.encode(ids, mask) for _ in range(300)])
    assert draws.std(0).min() > 0
    assert ((draws.mean(0) - mean).abs() < 5 * draws.std(0) / 300**0.5).all()


def test_kl_is_that_of_torch_and_free_bits_are_its_floor():
    ids, mask = make_sentences(20)

    def kl(**options):
        return make_vae(latent="gaussian", **options)(ids, mask).losses["kl"]

    vae = make_vae(latent="gaussian")
    pooled, _ = vae.encoder(vae.embed_tokens(ids), mask)
    mean, log_var = vae.to_gaussian(pooled).chunk(2, dim=-1)
    posterior = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl(free_bits=0.0), expected)
    assert expected > 0
    assert kl(free_bits=100.0) == 20 * WIDTH * 100
