"""Clients that leave, send nonsense, or come in numbers."""

import json
import random
import threading
import time
from typing import Any

import httpx
import pytest
import torch
from families import MAKERS, loaded_as, make_lm
from openai import APITimeoutError
from served import client_of, served
from soak import SOAK, times, tried
from tiny import make_vae

from sllm import SLLM
from sllm.serving.engine import Limits


@pytest.fixture(scope="module")
def address():
    models = {name: loaded_as(make("llama"), name) for name, make in MAKERS.items()}
    with served(models, Limits(seconds=20)) as address:
        yield address


def wait_until_idle(address, model):
    began = time.monotonic()
    while any(httpx.get(f"{address}/health").json()["models"][model].values()):
        assert time.monotonic() - began < 10
        time.sleep(0.01)


def endless(name):
    """A model with so much to write that nobody would see the end of it."""
    model = make_lm(max_position_embeddings=10**5)
    with torch.no_grad():
        model.get_output_embeddings().weight[2] = 0  # the end mark, which is never the most probable token then
    if name == "sentences":
        model = SLLM.graft(make_vae(), model, max_sentences=16).eval()
        torch.nn.init.constant_(model.stop_head.bias, -99.0)
    return loaded_as(model)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["plain", "sentences"])
def test_a_client_that_leaves_frees_its_place(name, stream):
    with served({"long": endless(name)}, Limits(max_tokens=10**6, seconds=1000)) as address:
        asked = dict(model="long", prompt="Hello", max_tokens=90_000, temperature=0, stream=stream)
        client = client_of(address).with_options(timeout=0.5)
        if stream:
            with client.completions.create(**asked) as chunks:
                assert next(iter(chunks)).choices[0].finish_reason is None
        else:
            with pytest.raises(APITimeoutError):
                client.completions.create(**asked)
        wait_until_idle(address, "long")


# -- nonsense ----------------------------------------------------------------------------------------------------------

NASTY: list[Any] = [
    None, True, 0, -1, 1, 2**63, 10**30, 0.5, 1e308, -1e-308, "", "a", "\x00", "\N{OWL}" * 50, "\ud800", "a" * 10_000,
    [], [[]], ["a", 1], [None], {}, {"a": {"b": []}}, [0, 1, 2], [{"role": "user", "content": "Hi"}], ["x"] * 40,
]  # fmt: skip


def nonsense(rng: random.Random) -> dict:
    """Arguments of a request, more or less wrong."""
    chat = rng.random() < 0.5
    body = {"model": rng.choice(list(MAKERS)), "max_tokens": rng.randint(0, 6), "temperature": rng.choice([0, 1])}
    body |= {"messages": [{"role": "user", "content": "Hi"}]} if chat else {"prompt": "One, two."}
    known = [
        "prompt",
        "messages",
        "model",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "seed",
        "stop",
        "stream",
        "top_p",
    ]
    known += ["temperature", "stream_options", "echo", "logprobs", "logit_bias", "tools", "user", "best_of", "\ud800"]
    for _ in range(rng.randint(0, 3)):
        body[rng.choice(known)] = rng.choice(NASTY)
    for name in list(body):
        if rng.random() < 0.05:
            del body[name]
    content = json.dumps(body, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        content = content[: rng.randrange(len(content) + 1)]
    if rng.random() < 0.1:
        at = rng.randrange(len(content) + 1)
        content = content[:at] + rng.randbytes(3) + content[at:]
    kind = "application/json" if rng.random() < 0.95 else rng.choice(["text/plain", "application/json; charset=x", ""])
    path = "/v1/chat/completions" if chat != (rng.random() < 0.05) else "/v1/completions"
    if rng.random() < 0.05:
        path = rng.choice(["/", "/v1", "/v1/models/%00", "/v1/models/a/b", "/health", "/v1/completions/", "/%ff"])
    method = "POST" if rng.random() < 0.95 else rng.choice(["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
    return dict(method=method, url=path, content=content, headers={"content-type": kind})


def test_nonsense_is_refused_and_nothing_breaks(address):
    rng, seen = random.Random(7), set()
    with httpx.Client(base_url=address, timeout=30) as client:
        for _ in range(times(80, 1000)):
            asked = nonsense(rng)
            answer = client.request(**asked)
            assert 200 <= answer.status_code < 300 or 400 <= answer.status_code < 500, asked
            assert '"server_error"' not in answer.text, asked
            seen.add(answer.status_code)
    assert {200, 400, 404} <= seen
    for name in MAKERS:
        wait_until_idle(address, name)
        assert client_of(address).completions.create(model=name, prompt="Hello", max_tokens=3).usage.total_tokens >= 5


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_eight_clients_lose_nothing_and_mix_nothing_up(address):
    """Each asks for the same things again and again; the answers are those that it got alone."""
    kinds = [(name, seed) for name in MAKERS for seed in range(4)]

    def ask(client, name, seed):
        asked = dict(model=name, prompt=f"Client {seed}, ", max_tokens=4 + 5 * seed, seed=seed, n=1 + seed % 2)
        asked |= dict(temperature=0.9 * (seed > 0))
        if seed % 2:
            return [choice.text for choice in client.completions.create(**asked).choices]
        texts = [""] * asked["n"]
        for chunk in client.completions.create(stream=True, **asked):
            texts[chunk.choices[0].index] += chunk.choices[0].text
        return texts

    expected = {kind: ask(client_of(address), *kind) for kind in kinds}
    until = time.monotonic() + (300 if SOAK else 3)
    wrong: list[Any] = []
    answered: list[Any] = []

    def work(number):
        client, rng = client_of(address), random.Random(number)
        while time.monotonic() < until and not wrong:
            kind = rng.choice(kinds)
            try:
                found = ask(client, *kind)
            except Exception as error:
                found = error
            answered.append(kind)
            if found != expected[kind]:
                wrong.append((kind, found, expected[kind]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tried(len(answered))
    assert wrong == []
    assert len(answered) >= 8
    for name in MAKERS:
        wait_until_idle(address, name)
