"""Kinds of latents: what is drawn, and what it costs. Draws belong to (seed, step, sample), whatever the batches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_model
from tiny import WIDTH, make_sentences, make_sllm, make_vae
from toy_training import toy_config

from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.training.loop import Hooks, TrainingData, train
from lmbase.training.runlog import log_records

RANDOM = np.random.default_rng(0)
SENTENCES = [RANDOM.integers(4, 250, RANDOM.integers(1, 12)).tolist() for _ in range(60)]


class Sentences:
    def __len__(self):
        return len(SENTENCES)

    def batch(self, indices):
        ids, mask = pad_tokens([SENTENCES[i] for i in indices], 1)
        return {"input_ids": ids, "attention_mask": mask}


class Windows:
    def __len__(self):
        return len(SENTENCES) // 3

    def batch(self, indices):
        return vars(pad_sentences([SENTENCES[3 * i : 3 * i + 3] for i in indices], 1))


CASES: dict[str, tuple[Callable[[], Any], Any]] = {
    "latent dropout": (lambda: make_vae(latent_dropout=0.5), Sentences()),
    "gaussian": (lambda: make_vae(latent="gaussian"), Sentences()),
    "gaussian in an SLLM": (lambda: make_sllm(vae=dict(latent="gaussian")), Windows()),
}


@pytest.mark.parametrize("case", CASES)
def test_F7_draws_do_not_depend_on_the_cut(tmp_path, case):
    make, items = CASES[case]
    found = {}
    for size in (None, 1, 3):
        for seed in (0, 1):
            folder = tmp_path / f"{size}-{seed}"
            config = toy_config(max_steps=3, log_every=1, micro_batch_size=size, learning_rate=1e-4, seed=seed)
            hooks = Hooks(save_model=lambda model, target: save_model(model, str(target / "model.safetensors")))
            train(make(), TrainingData(items), config, folder, hooks)
            found[size, seed] = [sum(record["losses"].values()) for record in log_records(folder / "log.jsonl")]
    for size in (1, 3):
        assert found[size, 0] == pytest.approx(found[None, 0], rel=1e-5)
    assert found[1, 1] != pytest.approx(found[None, 0], rel=1e-3)  # other draws, and items


def test_a_share_of_the_vectors_is_withheld():
    vae = make_vae(latent_dropout=0.25).train()
    ids, mask = pad_tokens([[5, 6, 7]] * 400, 1)
    with torch.no_grad():
        withheld = (vae(ids, mask).sentence_embeds == 0).all(1).float().mean()
    assert 0.17 < float(withheld) < 0.33


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
