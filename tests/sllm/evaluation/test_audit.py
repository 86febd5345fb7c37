"""The audit of a model that is being trained."""

from dataclasses import replace

import pytest
import torch
from tiny import MEMORY, make_sllm

from sllm.evaluation.audit import audit_sentences
from sllm.sllm import SLLM


class LeakyWindows(SLLM):
    """Whole texts are read as they should be; in windows each state reads the sentence that it predicts."""

    def trunk_inputs(self, sentences, sentence_mask):
        ahead = (sentences.rows > 0).long()  # row 0 is the whole text
        numbers = (sentences.numbers + ahead).clamp(max=len(sentences.ids) - 1)
        return super().trunk_inputs(replace(sentences, numbers=numbers), sentence_mask)


def test_windows_are_audited_as_they_are_scored():
    model = make_sllm()
    sentences = [[10, 11], [12], [13, 14, 15], [16, 17]]
    assert audit_sentences(model, sentences).passed
    model.__class__ = LeakyWindows
    failures = audit_sentences(model, sentences).failures
    assert "the score of sentence 2 has a gradient into its own vector or a later one" in failures
    assert not any("step by step" in failure for failure in failures)  # nothing else shows it


def test_dropout_fails_no_audit_and_stays_on():
    """Drawn anew in every pass, it would make every comparison fail."""
    model = make_sllm(vae=dict(dropout=0.5), opt=dict(dropout=0.5))
    model.train()
    model.autoencoder.eval()
    report = audit_sentences(model, [[10, 11], [12], [13, 14, 15]])
    assert report.passed, report.failures
    assert (model.training, model.trunk.training, model.autoencoder.training) == (True, True, False)


class LeakyMemory(SLLM):
    """The decoder's memory of tokens reaches across the start of a text: `token >= 0` instead of `>= text_start`."""

    def _memories(self, sentences, states, index, memory):
        num_states, num_tokens = self.config.num_memory_states, self.config.num_memory_tokens
        reached = sentences.starts[sentences.numbers[index], None] >= torch.arange(num_tokens, 0, -1)
        found = super()._memories(sentences, states, index, memory) or []
        return [
            replace(layer, mask=torch.cat([layer.mask[:, :num_states], reached], dim=1)) for layer in found if layer
        ]


def test_F4_a_memory_that_reaches_across_the_start_of_a_text_is_found():
    model = make_sllm(**MEMORY)
    sentences = [[10 + k, 40 - k] for k in range(6)]
    audit_sentences(model, sentences).raise_if_failed("it")
    model.__class__ = LeakyMemory
    failures = audit_sentences(model, sentences).failures
    assert "changing the texts beside it moved the score of sentence 1" in failures
    assert "changing what stands before the window from sentence 2 on moved the score of sentence 4" in failures


class LeakyVectors(SLLM):
    """The decoder's memory of sentence vectors ends with that of the sentence that it writes."""

    def _memories(self, sentences, states, index, memory):
        numbers = (sentences.numbers + 1).clamp(max=len(sentences.ids) - 1)
        return super()._memories(replace(sentences, numbers=numbers), states, index, memory)


@pytest.mark.parametrize("kind", ["trained", "detached"])
def test_a_memory_that_holds_the_sentence_itself_is_found(kind):
    model = make_sllm(num_memory_vectors=2, vector_memory=kind)
    sentences = [[10 + k, 40 - k] for k in range(6)]
    audit_sentences(model, sentences).raise_if_failed("it")
    model.__class__ = LeakyVectors
    failures = audit_sentences(model, sentences).failures
    assert "sentence 2 scores otherwise when the text is read step by step with caches" in failures
    own = "the score of sentence 2 has a gradient into its own vector or a later one"
    assert (own in failures) == (kind == "trained")


class LeakyFarAway(SLLM):
    """From the 6th sentence on each state reads the text's last sentence."""

    def trunk_inputs(self, sentences, sentence_mask):
        far = (sentences.places >= 5) & (sentences.places < len(sentences.ids) - 1)
        numbers = torch.where(far, len(sentences.ids) - 1, sentences.numbers)
        return super().trunk_inputs(replace(sentences, numbers=numbers), sentence_mask)


def test_F4_what_follows_the_opening_is_audited_by_samples():
    model = make_sllm()
    sentences = [[10 + k, 50 - k] for k in range(15)]
    honest = audit_sentences(model, sentences, 4)
    honest.raise_if_failed("it")
    model.__class__ = LeakyFarAway
    assert audit_sentences(model, sentences[:4]).passed
    assert any("moved the score of sentence" in failure for failure in audit_sentences(model, sentences, 4).failures)
