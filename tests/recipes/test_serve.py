"""`sllm serve` as a user types it."""

import socket
import sys

import pytest
from served import asked_until_stopped, client_of
from small_runs import refused


def test_it_serves_until_it_is_stopped(kinds, capsys):
    found = []

    def ask(address):
        client = client_of(address).with_options(max_retries=9)  # until it is there
        found.append(client.completions.create(model="other", prompt="Hello", max_tokens=4).usage.prompt_tokens)

    address = asked_until_stopped(f"serve {kinds}/sentences other={kinds}/plain", ask)
    assert found == [5]
    told = capsys.readouterr()
    assert f"sentences, other at {address}/v1" in told.out
    assert told.err.endswith("Stopped by SIGTERM.\n")  # there is nothing to continue


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "sllm serve FOLDER"),
        ("{}/vae", "is an autoencoder: it writes what it read"),
        ("{}/plain {}/plain", "Two models are called 'plain': write --model NAME=FOLDER"),
        ("{}/plain --max_batch 0", "max_batch = 0 (command line): expected int > 0"),
        ("{}/plain --port 99999", "--port 99999"),
        ("{}/plain --host nowhere.invalid", "--host nowhere.invalid"),
        ("{}/heads --num_draft 9", "num_draft=9"),
        ("{}/plain {}/heads --overflow slide", "overflow='slide' is for SLLMs, and none is among plain, heads"),
        ("{}/plain/config.json", "config.json' is a file: give the folder that it lies in"),
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
