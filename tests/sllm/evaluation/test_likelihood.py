"""What is audited and scored, and the rows of it."""

import pytest
from families import MAKERS, loaded_as, make_lm
from tiny import make_opt, make_processor, make_sllm, make_vae

from sllm.evaluation.kinds import kind_of
from sllm.evaluation.likelihood import audit_loaded, compare, evaluate_likelihood, paper_row
from sllm.evaluation.loaded import LoadedModel
from sllm.evaluation.texts import Texts

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


def test_rows_of_every_kind_have_protocols_flags_and_heads():
    data = Texts(TEXTS, "some", 38, 20)
    found = {}
    for name, make in MAKERS.items():
        for row, documents in evaluate_likelihood(loaded_as(make("llama"), name), data):
            found[name, row.protocol] = row
            assert row.nats == pytest.approx(sum(d.nats for d in documents))
            assert row.bytes == sum(map(len, TEXTS))
    protocols = ["plain", "heads", "sentences"]
    assert list(found) == [*((name, "full window") for name in protocols), ("sentences", "equal context")]
    assert found["plain", "full window"].stop_nats is None
    assert (found["sentences", "full window"].stop_nats or 0) > 0
    assert {"nats_head_1", "nats_head_2"} <= set(found["heads", "full window"].extra)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_G9_how_far_scoring_is_and_what_is_left_is_said(make, monkeypatch, capsys):
    data, loaded = Texts(TEXTS, "some", 38, 20), loaded_as(make("llama"))
    whole = [row.nats for row, _ in evaluate_likelihood(loaded, data)]
    monkeypatch.setattr("sllm.evaluation.likelihood.PORTION_BYTES", 10)
    monkeypatch.setattr("sllm.evaluation.likelihood.TELL_SECONDS", 0.0)
    assert [row.nats for row, _ in evaluate_likelihood(loaded, data)] == pytest.approx(whole, rel=1e-5)
    assert "tested: 27% of the text scored, about " in capsys.readouterr().out


def test_a_row_is_compared_with_the_baselines_documents():
    data = Texts(TEXTS, "some", 38, 20)
    plain = loaded_as(make_lm("llama"))
    ((row, found),) = evaluate_likelihood(plain, data)
    compare(row, found, found, "itself", 0)
    assert row.extra["ratio"] == row.extra["ratio_low"] == row.extra["ratio_high"] == 1
    compare(row, found[:1], found[1:2], "another", 0)
    assert row.extra["compared_with"] == "another"


def test_rows_of_the_papers_protocol_have_no_bits():
    row = paper_row(loaded_as(make_lm("gpt2")), Texts(TEXTS, "some", 38, 20))
    assert (row.protocol, row.bits_per_byte) == ("paper", None)
    assert row.extra["ppl"] > 1
