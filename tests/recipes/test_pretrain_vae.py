"""`sllm pretrain-vae`: an autoencoder takes its shape from the trunk that it is for, or from keys."""

import json

import pytest
import torch
from small_runs import refused

from lmbase.config import load_config
from lmbase.modeling.pretrained import load_lm
from lmbase.modeling.trunk import input_table
from sentencevae import SentenceVAE
from sllm_data.prepared import PreparedData
from sllm_recipes.pretrain_vae import Config, _settle_layers, build


@pytest.fixture(scope="module")
def built(runs):
    data = PreparedData.load(runs / "data")

    def build_of(words: str) -> SentenceVAE:
        config = load_config(Config, words.replace("{}", str(runs)).split())
        _settle_layers(config)
        return build(config, data)

    return build_of


def test_width_heads_and_table_are_the_trunks(runs, built):
    trunk = load_lm(str(runs / "opt"))
    vae = built("--lm {}/opt")
    assert (vae.config.hidden_size, vae.config.num_attention_heads) == (
        trunk.config.hidden_size,
        trunk.config.num_attention_heads,
    )
    assert torch.equal(vae.embed_tokens.weight, input_table(trunk))
    assert vae.processor.fingerprint == PreparedData.load(runs / "data").processor.fingerprint
    for words in ("--lm {}/opt --start_from_table false", "--lm random:tiny"):  # whose table means nothing
        other = built(words)
        assert other.embed_tokens.weight.shape == vae.embed_tokens.weight.shape
        assert not torch.equal(other.embed_tokens.weight, vae.embed_tokens.weight)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", (1, 1)),
        ("--layers 2", (2, 2)),
        ("--layers 3 --num_decoder_layers 1", (3, 1)),
        ("--num_encoder_layers 2", (2, 1)),
    ],
)
def test_layers_are_of_both_parts_unless_one_is_told_more_exactly(built, words, expected):
    config = built(f"--hidden_size 16 --num_attention_heads 2 {words}").config
    assert (config.num_encoder_layers, config.num_decoder_layers) == expected
    assert config.hidden_size == 16


def test_the_log_tells_how_many_sentences_are_written_exactly(runs):
    figures = json.loads((runs / "vae" / "log.jsonl").read_text().splitlines()[-1])["eval"]
    assert 0 <= figures["exact_match"] <= 1
    assert {"token", "perplexity", "token_accuracy"} <= figures.keys()
    assert "bits_per_byte" not in figures, "it has seen the text"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--hidden_size 30 --num_attention_heads 4", "hidden_size=30 is no multiple of num_attention_heads=4"),
        ("--layers 5", "num_encoder_layers=5: choose 1 to 4"),
        ("--layers 0", "layers"),
        ("--kl_weight 3 --kl_warmup_steps 5", "kl_warmup_steps, kl_weight: of a Gaussian latent"),
        ("--lm {}/opt --hidden_size 64", "hidden_size=64: the trunk"),
        ("vae_demo --lm {}/opt --num_attention_heads 8", "sets it, to 4; leave the key out"),
    ],
)
def test_shapes_that_no_autoencoder_has_are_refused(runs, words, told, capsys):
    words = words.replace("{}", str(runs))
    config, keys = words.split(" ", 1) if words.startswith("vae_") else ("", words)
    assert told in refused(f"pretrain-vae {config} --data {runs}/data {keys} --output_dir {runs}/mistake", capsys)
