"""What a kind of model cannot do is refused in words that name it; drafts for a plain model come from an SLLM."""

import pytest
import torch
from families import loaded_as, make_family_heads, make_family_sllm, make_lm
from tiny import make_vae

from lmbase.text.tokenizers import load_tokenizer
from sllm.evaluation.loaded import Writing


def test_an_autoencoder_predicts_nothing():
    vae = loaded_as(make_vae(), "mine")
    tasks = [
        lambda: vae.audit("One."),
        lambda: vae.score(["One."], 4),
        lambda: vae.paper_perplexity(["One."]),
        lambda: vae.write("One", Writing(1)),
        lambda: vae.time("One", 1),
    ]
    for task in tasks:
        with pytest.raises(ValueError, match="mine is an autoencoder: it predicts no text"):
            task()
    assert vae.room is None
    assert vae.nats_by_head([]) == []


def test_an_assistant_writes_what_the_plain_model_writes():
    plain, helper = loaded_as(make_lm("llama")), loaded_as(make_family_sllm())
    alone = plain.write("Hello", Writing(12))
    assisted = plain.write("Hello", Writing(12, assistant=helper.as_assistant(plain)))
    assert assisted.text == alone.text
    assert assisted.tokens_per_forward is not None
    assert alone.tokens_per_forward is None


@pytest.mark.parametrize(
    ("helped", "helper", "told"),
    [
        (make_family_sllm, make_family_sllm, "drafts for a plain token-level model, and tested is an SLLM"),
        (make_family_heads, make_family_sllm, "drafts for a plain token-level model, and tested is a multi-token"),
        (make_lm, make_lm, "--assistant is an SLLM, and tested is a plain token-level model"),
    ],
)
def test_who_can_assist_whom(helped, helper, told):
    with pytest.raises(ValueError, match=told):
        loaded_as(helper()).as_assistant(loaded_as(helped()))


def test_an_assistant_needs_the_same_tokenizer():
    plain, helper = loaded_as(make_lm()), loaded_as(make_family_sllm())
    helper.tokenizer = load_tokenizer("bpe:280", lambda: iter(["the cat and the dog"] * 9))
    with pytest.raises(ValueError, match="different tokenizers"):
        helper.as_assistant(plain)


def test_it_goes_to_a_dtype():
    loaded = loaded_as(make_lm())
    loaded.to(dtype=torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16
