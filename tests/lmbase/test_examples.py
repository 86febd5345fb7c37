"""The pair of models that comes with the package: whole, small, and what its files say of it."""

import json
import shutil
from typing import Any

import pytest
import torch

from lmbase.files import verify_folder
from lmbase.hub import EXAMPLES
from lmbase.modeling.folders import model_folder
from lmbase.report.rows import read_metrics
from lmbase.text.tokenizers import load_tokenizer
from lmbase.training.cost import Training, read_training
from multitoken import MultiTokenLM
from sllm import SLLM
from sllm.loading import load_model

CLASSES: dict[str, Any] = {"sllm": SLLM, "lm": MultiTokenLM}
CHECK = json.loads((EXAMPLES / "check.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=CLASSES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return CLASSES[name].from_pretrained(f"example:{name}")


def training_of(name: str) -> Training:
    found = read_training(f"example:{name}")
    assert found is not None
    return found


def test_all_of_it_takes_less_than_ten_megabytes():
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 10_000_000


def test_it_is_stored_in_half_of_what_is_computed_with(name, model):
    stored = (EXAMPLES / name / "model.safetensors").stat().st_size
    assert stored < 2.2 * sum(p.numel() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_file_that_was_changed_is_refused(name, tmp_path):
    verify_folder(EXAMPLES / name, alone=True)
    folder = shutil.copytree(EXAMPLES / name, tmp_path / name)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="is damaged: its contents do not match"):
        CLASSES[name].from_pretrained(folder)


def test_it_scores_a_text_as_it_did_where_it_was_made(name, model):
    (nats,) = model.score([CHECK["text"]]).nats
    assert float(nats) == pytest.approx(CHECK[name]["nats"], abs=1e-3)


def test_it_passes_the_audit_that_it_passed(name):
    report = load_model(f"example:{name}").audit(CHECK["text"])
    report.raise_if_failed(name)
    assert report.num_checks == CHECK[name]["audit_checks"]


@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "temperature": 0.8, "seed": 1}], ids=["greedy", "drawn"])
def test_drafts_are_offered_and_accepted_and_change_no_text(model, settings):
    alone, drafted = (
        model.generate(text="Once upon a time", max_new_tokens=64, num_draft=num_draft, **settings)
        for num_draft in (1, 3)
    )
    assert drafted.texts == alone.texts
    assert len(alone.texts[0]) > 40
    found = drafted.statistics
    assert 0 < sum(found.accepted) < sum(found.offered)
    assert found.tokens_per_forward > 1


def test_its_figures_were_made_from_a_commit_by_an_audited_evaluation(name):
    metrics = read_metrics(EXAMPLES)
    assert len(metrics["git_revision"]) == 40  # without "-dirty"
    rows = {row.model: row for row in metrics["rows"] if row.protocol == "full window"}
    row, trained = rows[name], training_of(name)
    assert row.bits_per_byte > 0  # a model that fails the audit has none
    assert row.extra["ratio_low"] < row.extra["ratio"] < row.extra["ratio_high"]
    assert row.tokens_per_second > 0
    assert row.training_tokens == trained.total_tokens
    assert all(run.made_on and len(run.made_on["git_revision"]) == 40 for run in trained.runs().values())


def test_the_two_have_seen_as_much_text_and_have_one_tokenizer():
    tokens = [training_of(name).total_tokens for name in CLASSES]
    assert max(tokens) < 1.01 * min(tokens)
    first, second = (load_tokenizer(f"example:{name}") for name in CLASSES)
    assert first.get_vocab() == second.get_vocab()


@pytest.mark.parametrize("load", [load_model, load_tokenizer, model_folder, SLLM.from_pretrained])
def test_a_name_that_no_example_has_is_told_with_those_that_there_are(load):
    with pytest.raises(ValueError, match="'example:opt': no such model comes with the package; there are example:lm"):
        load("example:opt")


def test_an_installation_without_them_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("lmbase.hub.EXAMPLES", tmp_path / "none")
    with pytest.raises(ValueError, match="this copy came without any"):
        model_folder("example:sllm")
