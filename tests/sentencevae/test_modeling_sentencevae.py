"""The sentence autoencoder: batches, losses, gradients, its one vocabulary table."""

import pytest
import torch
from safetensors import safe_open
from tiny import make_sentences, make_vae


@torch.no_grad()
def test_a_batch_is_its_members(variant):
    """200 sentences fall into several buckets of like length: order and losses stay those of the sentences alone."""
    ids, mask = make_sentences(200)
    output = variant(ids, mask)
    vectors, states = variant.encode_states(ids, mask)
    torch.testing.assert_close(output.sentence_embeds, vectors)
    assert (states[~mask] == 0).all()
    alone = [variant(ids[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(mask.sum(1).tolist())]
    torch.testing.assert_close(vectors, torch.cat([a.sentence_embeds for a in alone]), atol=1e-4, rtol=1e-4)
    for name, total in output.losses.items():
        torch.testing.assert_close(total, sum(a.losses[name] for a in alone), atol=1e-2, rtol=1e-5)
    assert output.correct == sum(a.correct for a in alone)


def test_mean_loss_is_the_sum_over_the_count(variant):
    ids, mask = make_sentences(10)
    output, counts, weights = variant(ids, mask), variant.loss_counts(ids, mask), variant.loss_weights
    expected = sum(weights[name] * output.losses[name] / counts[name] for name in counts)
    torch.testing.assert_close(output.loss, expected)
    assert counts.keys() == weights.keys() == output.losses.keys()


@torch.no_grad()
def test_sum_pooling_adds_up_token_states(vae):
    plain = make_vae(pooling="sum")
    ids, mask = make_sentences(6)
    vectors, states = plain.encode_states(ids, mask)
    torch.testing.assert_close(vectors, plain.encoder.pool_norm(states.sum(1)))
    vectors, states = vae.encode_states(ids, mask)
    assert not torch.allclose(vectors, vae.encoder.pool_norm(states.sum(1)), atol=0.1)


def test_gradients_reach_every_parameter(variant):
    variant.train()
    ids, mask = make_sentences(40)
    variant(ids, mask).loss.backward()
    variant.eval()
    missing = [name for name, p in variant.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []
    variant.zero_grad()


def test_focal_loss_is_for_training_only():
    vae = make_vae(focal_gamma=2.0)
    ids, mask = make_sentences(10)
    exact = vae(ids, mask)
    torch.testing.assert_close(exact.losses, make_vae()(ids, mask).losses)
    assert vae.train()(ids, mask).losses["token"] < 0.9999 * exact.losses["token"]


def test_a_recipe_can_warm_the_kl_up():
    vae = make_vae(latent="gaussian", kl_weight=0.5)
    assert vae.loss_weights == {"token": 1.0, "kl": 0.5}
    vae.kl_scale = 0.1
    assert vae.loss_weights["kl"] == pytest.approx(0.05)
    assert make_vae().loss_weights == {"token": 1.0}


def test_there_is_one_vocabulary_table(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    assert sum(260 in shape for shape in shapes) == 1
    assert sum(torch.Size(shape).numel() for shape in shapes) == vae.num_parameters()


@pytest.mark.parametrize("name", ["forward", "encode", "encode_states"])
def test_an_empty_sentence_is_told(name):
    """Its loss was infinite, and so was that of the whole batch; its vector meant nothing."""
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match="Sentence 1 has no tokens"):
        getattr(make_vae(), name)(torch.tensor([[20, 30, 1], [1, 1, 1]]), mask)
