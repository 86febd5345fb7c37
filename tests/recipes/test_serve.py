"""`sllm serve` as a user types it."""

import os
import signal
import socket
import sys
import threading

import pytest
from served import client_of
from small_runs import refused, sllm


def test_it_serves_until_it_is_stopped(kinds, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = []

    def ask():
        try:
            client = client_of(f"http://127.0.0.1:{port}").with_options(max_retries=9)  # until it is there
            found.append(client.completions.create(model="other", prompt="Hello", max_tokens=4).usage.prompt_tokens)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(SystemExit) as stopped:
        sllm(f"serve {kinds}/sentences other={kinds}/plain --port {port} --device cpu")
    asking.join()
    assert found == [5]
    assert stopped.value.code == 143
    assert f"sentences, other at http://127.0.0.1:{port}/v1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "sllm serve FOLDER"),
        ("{}/vae", "is an autoencoder: it writes what it read"),
        ("{}/plain {}/plain", "Two models are called 'plain': write --model NAME=FOLDER"),
        ("{}/plain --max_batch 0", "max_batch"),
        ("{}/plain --port 99999", "--port 99999"),
        ("{}/plain --host nowhere.invalid", "--host nowhere.invalid"),
        ("{}/heads --num_draft 9", "num_draft=9"),
    ],
)
def test_mistakes_end_with_a_message(kinds, words, told, capsys):
    assert told in refused(f"serve {words.replace('{}', str(kinds))}", capsys)


def test_a_port_that_is_taken_is_told(kinds, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "--port 0 takes any free one" in refused(f"serve {kinds}/plain --port {port}", capsys)


def test_a_missing_package_is_told_with_what_installs_it(kinds, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "uvicorn is missing: pip install 'sllm[serve]'" in refused(f"serve {kinds}/plain", capsys)
