"""The audit of a model that is being trained."""

from tiny import make_sllm

from sllm.audit import audit_sentences


def test_dropout_fails_no_audit_and_stays_on():
    """Drawn anew in every pass, it would make every comparison fail."""
    model = make_sllm(vae=dict(dropout=0.5), opt=dict(dropout=0.5)).train()
    model.autoencoder.eval()
    report = audit_sentences(model, [[10, 11], [12], [13, 14, 15]])
    assert report.passed, report.failures
    assert (model.training, model.trunk.training, model.autoencoder.training) == (True, True, False)
