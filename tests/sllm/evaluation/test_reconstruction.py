"""The row of an autoencoder."""

from families import loaded_as
from tiny import make_vae

from sllm.evaluation.reconstruction import evaluate_reconstruction
from sllm.evaluation.texts import Texts


def test_exact_sentences_and_tokens_are_shares_and_few_sentences_are_spread(monkeypatch):
    vae = make_vae()
    data = Texts(["One, two, three. Four!"], "some", 22, 63)
    row = evaluate_reconstruction(loaded_as(vae), data, 2)
    assert row.protocol == "reconstruction"
    assert row.extra["sentences"] == 2
    assert 0 <= (row.reconstruction_exact_match or 0) <= (row.reconstruction_token_accuracy or 0) <= 1
    assert row.extra["ppl"] > 1
    monkeypatch.setattr(vae, "reconstruct_ids", lambda rows, batch_size: rows)
    perfect = evaluate_reconstruction(loaded_as(vae), data, 10)
    assert (perfect.reconstruction_exact_match, perfect.reconstruction_token_accuracy) == (1, 1)
