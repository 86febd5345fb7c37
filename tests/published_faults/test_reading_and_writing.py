"""Faults 1 to 4 of docs/published-faults.md: what a model sees, what it is scored by, and how it writes.

Each test builds the faulty model or function, shows that our check rejects it, and that ours passes the same check.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from published import EOS, PAD, SENTENCES, TEXT, as_kind, loaded, pad, run_evaluate
from tiny import CAP, WIDTH, make_opt, make_processor, make_sllm, make_vae
from torch import nn

from lmbase.modeling.causality import audit_tokens
from lmbase.text.padding import pad_tokens
from sentencevae import SentenceVAE, decoder
from sentencevae.decoder import SentenceTargets, sentence_targets
from sllm import SLLM, reading
from sllm.evaluation.audit import audit_sentences
from sllm.evaluation.likelihood import audit_loaded

# -- 1: the future leaks -----------------------------------------------------------------------------------------------


@contextmanager
def mask_replaced(opt: Any, replace: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """OPT's layers get another attention mask than they are given; eager attention adds it to its scores."""

    def hook(module, args, kwargs):
        return args, kwargs | {"attention_mask": replace(kwargs["attention_mask"])}

    opt.set_attn_implementation("eager")
    hooks = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in opt.get_decoder().layers]
    yield
    for handle in hooks:
        handle.remove()


class NoMask(SLLM):
    """The trunk's layers are called without a mask, as published."""

    def trunk_states(self, *args):
        with mask_replaced(self.trunk, lambda mask: None):
            return super().trunk_states(*args)


class OwnState(SLLM):
    """A sentence is decoded from the trunk state that has just read it."""

    def decode(self, sentences, states, *args, **kwargs):
        return super().decode(sentences, states[:, 1:], *args, **kwargs)


class OpenDecoder(SLLM):
    """All tokens of a sentence are decoded at once, each seeing those that follow it: its own target too."""

    def decode(self, sentences, states, *args, **kwargs):
        attentions: list[Any] = [layer.attention for layer in self.autoencoder.decoder.layers]
        for attention in attentions:
            closed = attention.forward
            attention.forward = lambda x, keys, mask, causal=False, closed=closed: closed(x, keys, mask)
        yield from super().decode(sentences, states, *args, **kwargs)
        for attention in attentions:
            del attention.forward


class ConstantReading(SLLM):
    """A written sentence is encoded without its mask: all encoder states are zeroed, as published (fault 3)."""

    def step(self, *args):
        with self.constant():
            super().step(*args)

    @contextmanager
    def constant(self):
        hook = self.autoencoder.encoder.norm.register_forward_hook(lambda module, inputs, output: output * 0)
        yield
        hook.remove()


@pytest.mark.parametrize(
    ("leaky", "finding"),
    [
        (NoMask, "changing sentence 1 and what follows moved the state that scores sentence 1"),
        (OwnState, "the score of sentence 1 has a gradient into its own vector or a later one"),
        (OpenDecoder, "sentence 1 scores otherwise when the text is read step by step with caches"),
        (ConstantReading, "sentence 2 scores otherwise when the text is read step by step with caches"),
    ],
)
def test_fault_01_future_leak(sllm, leaky, finding):
    """The audit passes our model and names what is wrong with one that sees what it scores, or generates otherwise."""
    assert audit_sentences(sllm, SENTENCES).passed
    report = audit_sentences(as_kind(sllm, leaky), SENTENCES)
    assert finding in report.failures
    with pytest.raises(ValueError, match="leaky fails the causality audit"):
        report.raise_if_failed("leaky")


def test_fault_01_future_leak_in_a_token_model():
    """No mask at all, and a mask that is open by one position: each token sees itself and nothing beyond."""
    tokenizer = make_processor().tokenizer
    assert audit_loaded(loaded("ours", make_opt(), tokenizer, None), [TEXT]).passed
    leaky = make_opt(num_hidden_layers=1)
    with mask_replaced(leaky, lambda mask: None):
        failures = audit_loaded(loaded("leaky", leaky, tokenizer, None), [TEXT]).failures
    assert "moved the score of token 1" in failures[0]
    with mask_replaced(leaky, lambda mask: mask.roll(-1, dims=2) if mask is not None and mask.shape[2] > 1 else mask):
        failures = audit_loaded(loaded("leaky", leaky, tokenizer, None), [TEXT]).failures
    assert "step by step" in failures[0]


def test_fault_01_nothing_checked_is_no_pass(sllm):
    nothing = audit_tokens(torch.tensor, torch.tensor, [], 260)
    for report in (audit_sentences(sllm, []), nothing):
        assert not report.passed
        with pytest.raises(ValueError, match="empty"):
            report.raise_if_failed("unknown")


def test_fault_01_no_likelihood_for_a_leaky_model(rows, tmp_path):
    assert [row.model for row in rows if row.bits_per_byte] == ["opt", "sllm", "sllm"]
    with pytest.raises(ValueError, match=r"sllm fails the causality audit.*changing sentence 1"):
        run_evaluate(tmp_path, as_kind(make_sllm(), NoMask))
    assert not (tmp_path / "out").exists()


# -- 2: targets are off by one sentence --------------------------------------------------------------------------------


def neighbours_targets(input_ids, attention_mask, config) -> SentenceTargets:
    """Sentence k + 1 is scored under the length of sentence k, as published."""
    ours = sentence_targets(input_ids, attention_mask, config)
    theirs = sentence_targets(input_ids, attention_mask.roll(1, dims=0), config)
    return SentenceTargets(ours.inputs, theirs.targets, theirs.mask, ours.first)


def test_fault_02_targets_off_by_one(sllm, monkeypatch):
    def check_targets(cut_targets):
        cut = cut_targets(*pad_tokens(SENTENCES, PAD), sllm.config.autoencoder)
        predicted = [row[mask].tolist() for row, mask in zip(cut.targets, cut.mask, strict=True)]
        assert predicted == [[*ids, EOS][:CAP] for ids in SENTENCES]

    def check_scored():
        token = sllm.nats(**pad([SENTENCES])).token[0]
        assert (token > 0).sum(-1).tolist() == [min(len(ids) + 1, CAP) for ids in SENTENCES]

    check_targets(sentence_targets)
    check_scored()
    with pytest.raises(AssertionError):
        check_targets(neighbours_targets)
    monkeypatch.setattr(decoder, "sentence_targets", neighbours_targets)
    with pytest.raises(AssertionError):
        check_scored()


# -- 3: a generated sentence comes back as a constant ------------------------------------------------------------------


@torch.no_grad()
def test_fault_03_constant_reencoding(sllm, monkeypatch):
    def state_after(model, ids):
        state = model.prefill(**pad([SENTENCES[:2]]))
        model.step(*pad_tokens([ids], PAD), state)
        return state.states[0, -1]

    def check_content_counts(model):
        assert not torch.allclose(state_after(model, [10, 11, 12]), state_after(model, [90, 91]), atol=1e-3)

    def check_generation(model):
        """The states that follow written sentences are those that training computes for the same ids."""
        found: list[torch.Tensor] = []
        step = reading.step

        def recording(model, ids, mask, state):
            with faulty.constant() if model is faulty else nullcontext():
                step(model, ids, mask, state)
            found.append(state.states[0, -1])

        monkeypatch.setattr(reading, "step", recording)
        output = model.generate(pad([SENTENCES[:2]])["input_ids"], max_new_sentences=4, min_new_tokens=99)
        sentences = [ids.tolist() for ids in output.sequences[0].split(output.sentence_lengths[0])]
        assert len(found) == 3  # nothing follows the fourth
        expected = model(**pad([sentences])).states[0]
        torch.testing.assert_close(torch.stack(found), expected[-1 - len(found) : -1], atol=1e-4, rtol=1e-4)

    faulty: Any = as_kind(sllm, ConstantReading)
    for check in (check_content_counts, check_generation):
        check(copy.deepcopy(sllm))
        with pytest.raises(AssertionError):
            check(faulty)


# -- 4: no length limit, no cache in the decoder -----------------------------------------------------------------------


def published_decode(vae: SentenceVAE, vector: torch.Tensor, limit: int) -> list[int]:
    """Each token recomputes its whole sentence, and what is compared with the limit is not the length."""
    ids = torch.full((1, 1), EOS)
    while ids.shape[0] <= limit and ids.shape[1] <= vae.config.max_sentence_tokens:
        hidden = vae.decoder(vae.embed_tokens(ids), vector)[:, -1]
        ids = torch.cat([ids, (hidden @ vae.embed_tokens.weight.T).argmax(-1, keepdim=True)], dim=1)
        if ids[0, -1] == EOS:
            break
    return ids[0, 1:].tolist()


def never_ending(vae: SentenceVAE) -> None:
    """The most probable token is never the end mark."""
    vae.decoder.norm.weight.zero_()
    vae.decoder.norm.bias.fill_(1.0)
    vae.embed_tokens.weight[EOS] = -10.0


@contextmanager
def positions_seen(layers: nn.ModuleList) -> Iterator[list[int]]:
    """Positions that each call of a layer computes."""
    seen: list[int] = []
    hooks = [layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1])) for layer in layers]
    yield seen
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def test_fault_04_length_limit_and_decoder_cache():
    def check(vae, decode):
        never_ending(vae)
        with positions_seen(vae.decoder.layers) as seen:
            ids = decode(vae)
        assert len(ids) == CAP
        assert set(seen) == {1}

    vector = torch.ones(1, WIDTH)
    check(make_vae(), lambda vae: vae.decode(vector)[0])
    with pytest.raises(AssertionError):  # no limit
        check(make_vae(max_sentence_tokens=3 * CAP), lambda vae: published_decode(vae, vector, CAP))
    with pytest.raises(AssertionError):  # of the right length, but from scratch for every token
        check(make_vae(), lambda vae: published_decode(vae, vector, CAP))


@torch.no_grad()
def test_fault_04_generation_computes_each_position_once():
    """Sentences of the cap's length: the decoder runs once for each token, the trunk once for each sentence."""
    model = make_sllm()
    never_ending(model.autoencoder)
    with (
        positions_seen(model.autoencoder.decoder.layers) as decoder,
        positions_seen(model.trunk.decoder.layers) as trunk,
    ):
        output = model.generate(text="He left. She stayed.", max_new_sentences=3, min_new_tokens=99)
    assert output.sentence_lengths[0][2:] == [CAP] * 3
    assert decoder == [1] * 3 * CAP
    assert trunk == [3] * 2 + [1] * 2 * 2  # two layers: start state and prompt at once, then two of the written ones
