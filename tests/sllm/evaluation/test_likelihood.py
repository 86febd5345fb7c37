"""What is audited and scored."""

import pytest
from tiny import make_opt, make_processor, make_sllm, make_vae

from sllm.evaluation.kinds import kind_of
from sllm.evaluation.likelihood import audit_loaded
from sllm.evaluation.loaded import LoadedModel

TEXTS = ["Too short.", "One, two, three, four.", "Five."]


def loaded(model) -> LoadedModel:
    return kind_of(model.config.model_type)("tested", model, make_processor().tokenizer)


@pytest.mark.parametrize("make", [make_sllm, make_opt])
def test_the_longest_text_is_audited(make):
    report = audit_loaded(loaded(make()), TEXTS)
    assert report.passed
    assert report.num_checks == audit_loaded(loaded(make()), TEXTS[1:2]).num_checks


@pytest.mark.parametrize(("make", "texts", "found"), [
    (make_sllm, ["One, two."], "2 sentences"), (make_sllm, [], "0 sentences"), (make_opt, ["ab"], "2 tokens"),
])  # fmt: skip
def test_too_little_text_is_no_audit(make, texts, found):
    with pytest.raises(ValueError, match=f"has {found}, and at least 3 are needed.*--data"):
        audit_loaded(loaded(make()), texts)


def test_an_autoencoder_has_no_likelihood_to_audit():
    with pytest.raises(ValueError, match="tested is an autoencoder"):
        audit_loaded(loaded(make_vae()), TEXTS)
