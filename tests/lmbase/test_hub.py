"""A path is never asked of a hub, and a hub that does not answer is told at once."""

import time
from pathlib import Path

import pytest

from lmbase import hub
from lmbase.hub import check_source, name_and_source
from lmbase.modeling.pretrained import load_lm
from lmbase.text.tokenizers import load_tokenizer
from sllm import SLLM
from sllm.loading import load_model

WAYS = (load_lm, SLLM.from_pretrained, load_model, load_tokenizer)


@pytest.mark.parametrize("name", ["/no/such/folder", "./typo", "../typo", "a/b/c", "{here}/typo"])
def test_G8_a_path_is_never_asked_of_a_hub(name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmbase.hub._hub_answers", lambda: pytest.fail("a hub was asked"))
    for load in WAYS:
        with pytest.raises(ValueError, match="no such file or folder"):
            load(name.format(here="here"))


def test_G8_a_hub_that_does_not_answer_is_told_at_once(monkeypatch):
    monkeypatch.setattr("lmbase.hub._hub_answers", lambda: False)
    monkeypatch.setattr("lmbase.hub.constants.HF_HUB_OFFLINE", False)
    started = time.monotonic()
    for load in WAYS:
        with pytest.raises(ValueError, match="'nobody/nothing' is no folder here and not in the cache"):
            load("nobody/nothing")
    assert time.monotonic() - started < 2


def test_a_hub_that_answers_again_is_asked_again(monkeypatch):
    """One look without a network may not keep a notebook from the hub for the rest of its day."""
    there: list[bool] = []

    class Session:
        def head(self, *_, **__):
            if not there:
                raise OSError("no network")

    monkeypatch.setattr(hub.huggingface_hub, "get_session", Session)
    monkeypatch.setattr(hub.huggingface_hub, "try_to_load_from_cache", lambda *_: "config.json")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_hub", hub._Hub())
    check_source("owner/cached")
    assert hub.constants.HF_HUB_OFFLINE
    there.append(True)
    check_source("owner/cached")
    assert hub.constants.HF_HUB_OFFLINE  # it is not asked at every call
    hub._hub.until = 0
    check_source("owner/cached")
    assert not hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)  # by the user: it stays
    check_source("owner/cached")
    assert hub.constants.HF_HUB_OFFLINE


def test_a_path_with_an_equals_sign_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1").mkdir()
    assert name_and_source("lr=0.1") == ("", "lr=0.1")
    assert name_and_source("mine=lr=0.1") == ("mine", "lr=0.1")
    assert name_and_source("mine=runs/x") == ("mine", "runs/x")
    assert name_and_source("runs/x") == ("", "runs/x")
