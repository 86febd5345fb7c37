"""The audit of a model that is being trained."""

from dataclasses import replace

from tiny import make_sllm

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
