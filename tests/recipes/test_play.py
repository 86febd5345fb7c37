"""`sllm play` as a user types it; what the page shows is tested where the server is."""

import sys

import httpx
from served import asked_until_stopped
from small_runs import refused


def test_the_page_is_there_with_an_autoencoder_too(kinds, capsys):
    found: list[str] = []

    def ask(address):
        with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as client:  # until it is there
            found.extend(model["name"] for model in client.get(f"{address}/play/models").json()["models"])
            found.append(client.get(address).headers["content-type"])

    address = asked_until_stopped(f"play {kinds}/sentences {kinds}/vae", ask)
    assert found == ["sentences", "vae", "text/html; charset=utf-8"]
    assert f"sentences, vae at {address}/ " in capsys.readouterr().out


def test_a_missing_package_is_told_with_what_installs_it(kinds, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "uvicorn is missing: pip install 'sllm[serve]'" in refused(f"play {kinds}/plain", capsys)


def test_without_a_model_the_examples_are_shown():
    found: list[str] = []

    def ask(address):
        with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as client:
            found.extend(model["name"] for model in client.get(f"{address}/play/models").json()["models"])

    asked_until_stopped("play", ask)
    assert found == ["example:sllm", "example:lm"]
