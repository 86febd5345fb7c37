"""`sllm play` as a user types it; what the page shows is tested where the server is."""

import os
import signal
import socket
import sys
import threading

import httpx
import pytest
from small_runs import refused, sllm


def test_the_page_is_there_with_an_autoencoder_too(kinds, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    found: list[str] = []

    def ask():
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as client:  # until it is there
                found.extend(model["name"] for model in client.get(f"{address}/play/models").json()["models"])
                found.append(client.get(address).headers["content-type"])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(SystemExit) as stopped:
        sllm(f"play {kinds}/sentences {kinds}/vae --port {address.rpartition(':')[2]} --device cpu")
    asking.join()
    assert found == ["sentences", "vae", "text/html; charset=utf-8"]
    assert stopped.value.code == 143
    assert f"sentences, vae at {address}/ " in capsys.readouterr().out


def test_a_missing_package_is_told_with_what_installs_it(kinds, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "uvicorn is missing: pip install 'sllm[serve]'" in refused(f"play {kinds}/plain", capsys)
