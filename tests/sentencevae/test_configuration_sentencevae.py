"""Configurations of a sentence autoencoder: defaults, and what is refused."""

import pytest

from sentencevae import SentenceVAE, SentenceVAEConfig


def test_every_broken_rule_is_named_at_once():
    with pytest.raises(ValueError) as error:
        SentenceVAE(SentenceVAEConfig(num_encoder_layers=5, num_attention_heads=7, pooling="max", latent="none"))
    assert all(word in str(error.value) for word in ("num_encoder_layers=5", "=7", "'max'", "'none'"))


def test_layers_are_four_times_as_wide_inside_unless_said_otherwise():
    assert SentenceVAEConfig(hidden_size=24).ffn_dim == 96
    assert SentenceVAEConfig(hidden_size=24, ffn_dim=48).ffn_dim == 48


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(max_sentence_tokens=0), "max_sentence_tokens=0: at least 1"),
        (dict(latent_dropout=1.0), "latent_dropout=1.0: choose 0 to less than 1"),
        (dict(free_bits=-0.1), "free_bits=-0.1: at least 0"),
        (dict(num_decoder_layers=0), "num_decoder_layers=0: at least 1"),
        (dict(num_encoder_layers=5), "num_encoder_layers=5: choose 1 to 4"),
        (dict(num_attention_heads=0), "num_attention_heads=0: at least 1"),
        (dict(tie_word_embeddings=False), "tie_word_embeddings=False: one table"),
    ],
)
def test_a_broken_rule_is_told(options, words):
    with pytest.raises(ValueError, match=words):
        SentenceVAEConfig(**options).check()
