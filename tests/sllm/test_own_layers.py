"""The graft by own layers: it is the language model with one token a sentence, and causal with more."""

from dataclasses import replace

import pytest
import torch
from tiny import LMS, make_lm, make_own, pad

from lmbase.modeling.pruning import keep_layers
from sllm import SLLM
from sllm.evaluation.audit import audit_sentences

SENTENCES = [[10, 11, 12], [13], [14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25], [26, 27], [28], [29, 30, 31, 32]] * 3


@pytest.mark.parametrize("shape", LMS)
def test_with_one_token_a_sentence_it_is_the_language_model(shape):
    lm = make_lm(shape, num_hidden_layers=5, max_position_embeddings=64)
    model = SLLM.graft_own_layers(lm, 1, upper_layers=2, lower_layers=1, lower_window=64, upper_window=64)
    texts = [[[i] for i in range(10, 30)], [[i] for i in range(50, 40, -1)]]
    batch = pad(texts)
    with torch.no_grad():
        sentences = model.read(**batch)
        (decoded,) = model.decode(sentences, model.trunk_states(sentences, batch["sentence_mask"]))
        logits = decoded.hidden[:, 0] @ model.output_table.T
        opening = model.config.bos_token_id
        whole = [lm(torch.tensor([[opening, *(i for (i,) in text)]])).logits[0, :-1] for text in texts]
    assert torch.allclose(logits, torch.cat(whole), atol=1e-4)


@pytest.mark.parametrize("shape", ["llama", "opt-350m"])
def test_without_its_trunk_it_is_the_language_model_without_those_layers(shape):
    """At the opening token, too: attention rests there."""
    lm = make_lm(shape, num_hidden_layers=5, max_position_embeddings=64)
    given = dict(upper_layers=2, lower_layers=1, lower_window=64, upper_window=64, use_trunk=False)
    model = SLLM.graft_own_layers(lm, 1, **given)
    batch = pad([[[i] for i in range(10, 30)]])
    with torch.no_grad():
        sentences = model.read(**batch)
        (decoded,) = model.decode(sentences, model.trunk_states(sentences, batch["sentence_mask"]))
        ids = torch.tensor([[model.config.bos_token_id, *range(10, 30)]])
        whole = keep_layers(lm, "1+2").eval()(ids).logits[0, :-1]
    assert torch.allclose(decoded.hidden[:, 0] @ model.output_table.T, whole, atol=1e-4)


@pytest.mark.parametrize("shape", ["llama", "opt-350m", "gpt2"])
@pytest.mark.parametrize("end_flag", [True, False])
def test_it_passes_the_audit(shape, end_flag):
    report = audit_sentences(make_own(shape, end_flag=end_flag), SENTENCES, opening=6)
    report.raise_if_failed("it")


def test_an_untied_head_is_the_models_own():
    model = make_own(lm=dict(tie_word_embeddings=False))
    assert not torch.equal(model.output_table, model.get_input_embeddings().weight)
    audit_sentences(model, SENTENCES[:6]).raise_if_failed("it")


class LeakyLower(SLLM):
    """The lower blocks see a token further than they may."""

    def read(self, *arguments, **named):
        found = super().read(*arguments, **named)
        ahead = torch.cat([found.states[:, 1:], found.states[:, -1:]], dim=1)
        return replace(found, states=found.states + 0.1 * ahead)


class LeakyUpper(SLLM):
    """Rows of the upper blocks read the state of the sentence that they stand in."""

    def decode(self, sentences, states, *args, **kwargs):
        later = torch.cat([states[:, 1:], states[:, -1:]], dim=1)
        yield from super().decode(sentences, states + 0.1 * later, *args, **kwargs)


@pytest.mark.parametrize("leaky", [LeakyLower, LeakyUpper])
def test_a_planted_leak_is_caught(leaky):
    model = make_own()
    model.__class__ = leaky
    assert not audit_sentences(model, SENTENCES[:6]).passed


def test_windows_are_scored_as_texts_of_their_own():
    model = make_own()
    whole = pad([SENTENCES[:6]])
    windows = torch.tensor([[0, 0, 6], [0, 2, 5]])
    with torch.no_grad():
        found = model.nats(**whole, continues=torch.tensor([False, True]), windows=windows)
        alone = model.nats(**pad([SENTENCES[2:5]]), continues=torch.tensor([True]))
    assert torch.allclose(found.token[1, :3], alone.token[0], atol=1e-5)
    assert torch.allclose(found.stop[1, :4], alone.stop[0], atol=1e-5)


def test_loss_is_the_sum_of_nats_and_reaches_every_joint():
    model = make_own()
    batch = pad([SENTENCES[:4], SENTENCES[2:4]])
    output = model(**batch)
    nats = model.nats(**batch)
    count = model.loss_counts(**batch)["token"]
    assert torch.allclose(output.loss, (nats.token.sum() + nats.stop.sum()) / count, atol=1e-5)
    output.loss.backward()
    silent = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not silent


def test_it_comes_back_from_its_folder(tmp_path):
    model = make_own()
    model.save_pretrained(tmp_path)
    again = SLLM.from_pretrained(tmp_path)
    batch = pad([SENTENCES[:6]])
    with torch.no_grad():
        assert torch.equal(model(**batch).states, again(**batch).states)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(upper_layers=4), "has 5 layers"),
        (dict(upper_window=8), "shorter than a sentence"),
        (dict(max_sentences=60), "choose 1 to 42"),
        (dict(num_memory_tokens=4), "windows of tokens instead"),
        (dict(num_memory_vectors=4), "windows of tokens instead"),
        (dict(freeze_autoencoder=True), "has no autoencoder"),
        (dict(upper_layers=0), "needs upper_layers"),
        (dict(num_future_tokens=3, draft_targets="greedy", train_draft_heads_only=True), "with end_flag"),
        (dict(num_future_tokens=3, shape="opt-350m"), "narrower than its layers"),
    ],
)
def test_what_cannot_be_built_is_told(options, told):
    with pytest.raises(ValueError, match=told):
        make_own(**options)


def test_a_sentence_that_is_too_long_is_told():
    with pytest.raises(ValueError, match="13 tokens; the model reads at most 12"):
        make_own()(**pad([[list(range(10, 23))]]))
