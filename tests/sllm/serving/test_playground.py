"""What the playground's page is told."""

import json

import httpx
import pytest
from families import MAKERS, loaded_as
from served import served
from tiny import make_sllm, make_vae

from sllm.evaluation.loaded import Writing

TEXT = "Hello, you. \N{OWL} And me"


@pytest.fixture(scope="module")
def models():
    made = {name: make("llama") for name, make in MAKERS.items()}
    made |= {"memory": make_sllm(3, num_memory_states=3, num_memory_tokens=5), "vae": make_vae()}
    return {name: loaded_as(model, name) for name, model in made.items()}


@pytest.fixture(scope="module")
def client(models):
    with served(models, playground=True) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def written(client, **asked):
    answer = client.post("/play/write", json=dict(prompt="Hello", max_tokens=20) | asked)
    assert answer.status_code == 200, answer.text
    return [json.loads(part.removeprefix("data: ")) for part in answer.text.split("\n\n") if part]


def test_the_page_and_its_parts_ask_for_nothing_from_elsewhere(client):
    for path in ("/", "/play.js", "/play.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "://" not in answer.text


@pytest.mark.parametrize("name", [*MAKERS, "memory"])
@pytest.mark.parametrize("temperature", [0, 0.9])
def test_what_is_told_of_a_text_joins_to_it(client, models, name, temperature):
    settings = {"do_sample": True, "temperature": 0.9} if temperature else {}
    expected = models[name].write("Hello", Writing(20, seed=3, settings=settings))
    told = written(client, model=name, temperature=temperature, seed=3)
    assert "".join(piece for one in told for piece, _ in one.get("tokens", [])) == expected.text
    assert told[-1]["end"] == expected.finish_reason
    assert told[-1]["count"] == expected.num_tokens
    held = [one["cache_bytes"] for one in told if "cache_bytes" in one]
    assert held == sorted(held)
    assert held[0] > 0


def test_drafts_are_told_before_and_after_they_are_verified(client):
    told = written(client, model="heads", max_tokens=40)
    drafts = [len(one["draft"]) for one in told if "draft" in one]
    judged = [one for one in told if one.get("tokens") and told[told.index(one) - 1].get("draft")]
    kept = [sum(accepted for _, accepted in one["tokens"]) for one in judged]
    thrown = [len(one["rejected"]) for one in judged]
    assert drafts
    assert [a + b for a, b in zip(kept, thrown, strict=True)] == drafts


def test_sentences_end_where_the_model_ends_them(client, models):
    told = written(client, model="sentences", max_tokens=40)
    output = models["sentences"].model.generate(text="Hello", max_new_tokens=40)
    assert sum("border" in one for one in told) == len(output.sentence_lengths[0])


@pytest.mark.parametrize("text", [TEXT, "", "a", "\n\n", "No end " * 20, "Très 日本。😀"])
def test_costs_add_up_to_the_score(client, models, text):
    found = client.post("/play/score", json={"text": text}).json()
    assert "".join(found["sentences"]) == text
    sizes = models["sentences"].model.processor.encode(text).sentence_bytes
    assert [len(sentence.encode()) for sentence in found["sentences"]] == sizes
    for name, of in found["models"].items():
        assert len(of["pieces"]) == len(found["sentences"])
        every = [piece for pieces in of["pieces"] for piece in pieces]
        assert "".join(piece for piece, *_ in every) == text
        assert sum(tokens for _, tokens, _ in every) == sum(map(len, models[name].split(text)))
        if models[name].by_sentence:
            assert ["".join(piece for piece, *_ in pieces) for pieces in of["pieces"]] == found["sentences"]
        bits = [*(bits for *_, bits in every), of["end"]]
        if name != "plain":
            (nats,) = models[name].model.score(text).nats
            assert sum(bits) == pytest.approx(nats / 0.6931471805599453, rel=1e-6)
        assert min(bits) > 0
    assert set(found["models"]) == {*MAKERS, "memory"}


@pytest.mark.parametrize("name", ["vae", "sentences", "memory"])
def test_sentences_become_vectors_and_text_again(client, models, name):
    found = client.post("/play/rebuild", json={"model": name, "text": TEXT}).json()["sentences"]
    vae = models[name].autoencoder
    assert "".join(one["text"] for one in found) == TEXT
    assert "".join(one["written"] for one in found) == vae.reconstruct([TEXT])[0]
    assert {len(one["vector"]) for one in found} == {vae.config.hidden_size}
    way = client.post("/play/move", json={"model": name, "one": "Hello", "other": "You.", "steps": 5}).json()["texts"]
    assert way == vae.interpolate("Hello", "You.", 5)


@pytest.mark.parametrize(
    ("path", "asked", "told"),
    [
        ("write", dict(model="none", prompt="a", max_tokens=3), "There is no model 'none'"),
        ("write", dict(model="vae", prompt="a", max_tokens=3), "vae is an autoencoder: it writes no texts"),
        ("write", dict(model="plain", prompt="a", max_tokens=9999), "The server writes at most 1024 tokens"),
        ("write", dict(model="plain", prompt="a"), "max_tokens: Field required"),
        ("score", dict(text="a" * 20_001), "at most 20000 characters"),
        ("rebuild", dict(model="plain", text="a"), "makes no vector of a sentence"),
        ("move", dict(model="vae", one="a", other="a" * 99), "a sentence has 1 to 12"),
        ("move", dict(model="vae", one="", other="a"), "at least 1 character"),
    ],
)
def test_mistakes_are_told(client, path, asked, told):
    answer = client.post(f"/play/{path}", json=asked)
    assert 400 <= answer.status_code < 500
    assert told in answer.json()["error"]["message"]


def test_a_prompt_without_room_is_told_where_the_text_would_be(client):
    (told,) = written(client, model="heads", prompt="a" * 99)
    assert "Shorten it" in told["error"]


def test_a_prompt_that_cannot_be_read_is_told_in_the_stream(client, models, monkeypatch):
    def lacking(text):
        raise ValueError("no tokens for a character")

    monkeypatch.setattr(models["plain"], "split", lacking)
    assert written(client, model="plain") == [{"error": "no tokens for a character"}]


def test_a_model_without_a_likelihood_hinders_no_other():
    drawn = make_sllm(vae=dict(latent="gaussian"), next_vector="energy")
    models = {"plain": loaded_as(MAKERS["plain"]("llama"), "plain"), "drawn": loaded_as(drawn, "drawn")}
    with served(models, playground=True) as address:
        found = httpx.post(f"{address}/play/score", json={"text": TEXT}, timeout=60).json()
    assert list(found["models"]) == ["plain"]
