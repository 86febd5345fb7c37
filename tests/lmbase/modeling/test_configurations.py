"""Configurations refuse names and types that they do not know; a vocabulary can be resized."""

import pytest
import torch
from families import make_family_heads, make_family_sllm
from tiny import make_opt, make_vae

from lmbase.modeling.token_lm import TokenLM, score_tokens
from multitoken import MultiTokenLM, MultiTokenLMConfig
from sentencevae import SentenceVAEConfig
from sllm import SLLMConfig


@pytest.mark.parametrize(
    ("kind", "key", "near"),
    [
        (MultiTokenLMConfig, "opt_config", "trunk"),
        (MultiTokenLMConfig, "num_heads", "num_future_tokens"),
        (SLLMConfig, "max_sentence", "max_sentences"),
        (SentenceVAEConfig, "num_layers", "num_encoder_layers"),
    ],
)
def test_G14_an_unknown_key_is_refused_and_the_known_ones_are_named(kind, key, near):
    with pytest.raises(ValueError, match=rf"no field '{key}'.*{near}"):
        kind(**{key: 1})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (SLLMConfig, {"max_sentences": "3"}),
        (SLLMConfig, {"draft_transitions": "yes"}),
        (MultiTokenLMConfig, {"num_future_tokens": 2.5}),
        (MultiTokenLMConfig, {"head_weights": "1"}),
        (SentenceVAEConfig, {"dropout": "0.1"}),
        (SentenceVAEConfig, {"hidden_size": None, "ffn_dim": 8}),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(kind, values):
    with pytest.raises(ValueError, match=f"{next(iter(values))}=.*must be"):
        kind(**values).check()


def test_configurations_as_transformers_makes_them_are_taken():
    for kind in (SLLMConfig, MultiTokenLMConfig, SentenceVAEConfig):
        config = kind(torch_dtype="float32", use_cache=True, output_attentions=False)
        assert kind.from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama"])
@pytest.mark.parametrize("make", [make_family_sllm, make_family_heads])
def test_B3_a_vocabulary_is_resized_and_saved(make, family, tmp_path):
    model = make(family)
    old = model.config.vocab_size
    model.resize_token_embeddings(old + 8, mean_resizing=False)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.vocab_size == old + 8
    assert len(loaded.get_input_embeddings().weight) == old + 8
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])


def test_B3_matrices_of_the_heads_own_grow_alike(tmp_path):
    model = MultiTokenLM.from_lm(make_opt(tie_word_embeddings=False), 2)
    model.resize_token_embeddings(268, mean_resizing=False)
    model.save_pretrained(tmp_path)
    assert {len(m.weight) for m in MultiTokenLM.from_pretrained(tmp_path).unembeddings} == {268}


def test_B3_a_vocabulary_size_is_taken_by_the_configuration():
    assert SLLMConfig(vocab_size=300).autoencoder.vocab_size == 300
    assert MultiTokenLMConfig(vocab_size=300).trunk.vocab_size == 300


@pytest.mark.parametrize("use", ["train", "score", "heads", "saved"])
def test_B2_an_untied_model_is_used_with_its_own_output_head(use, tmp_path):
    """Not with the table that it reads tokens with."""
    lm = make_opt(tie_word_embeddings=False)
    model = make_vae(hidden_size=lm.config.hidden_size)
    ids = torch.tensor([[4, 5, 6, 7, 8]])
    whole, end = torch.ones_like(ids), torch.tensor([True])
    logits = lm(torch.cat([torch.tensor([[2]]), ids], 1)).logits
    own = torch.nn.functional.cross_entropy(logits[0], torch.tensor([4, 5, 6, 7, 8, 2]), reduction="none")
    if use == "train":
        wrapped = TokenLM(lm)
        wrapped(ids, whole, end).loss.backward()
        assert lm.lm_head.weight.grad.abs().sum() > 0
        found = wrapped.nats(ids, whole, end)[0]
    elif use == "score":
        text = model.processor.decode(ids[0])
        (scored,) = score_tokens(TokenLM(lm).eval(), model.processor.tokenizer, [text], window=30)
        found = torch.tensor(scored.token)
    else:
        heads = MultiTokenLM.from_lm(lm, 1)
        if use == "saved":
            heads.save_pretrained(tmp_path)
            heads = MultiTokenLM.from_pretrained(tmp_path)
        found = heads.nats(ids, whole, end)[0]
    torch.testing.assert_close(found.detach().float(), own.detach(), atol=1e-4, rtol=1e-4)
