"""The server as the `openai` client sees it, with every kind of model."""

import httpx
import pytest
from families import MAKERS, loaded_as
from openai import BadRequestError, NotFoundError
from served import client_of, served

from lmbase.text.codec import MissingTokenError
from sllm.evaluation.loaded import Writing


@pytest.fixture(scope="module")
def models():
    return {name: loaded_as(make("llama"), name) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def address(models):
    with served(models) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return client_of(address)


@pytest.mark.parametrize("name", MAKERS)
def test_a_completion_is_what_the_model_writes_by_itself(client, models, name):
    sampled = {"do_sample": True, "temperature": 0.8, "top_p": 0.9}
    expected = models[name].write("Hello", Writing(12, seed=3, settings=sampled))
    found = client.completions.create(model=name, prompt="Hello", max_tokens=12, temperature=0.8, top_p=0.9, seed=3)
    assert found.choices[0].text == expected.text
    assert found.choices[0].finish_reason == expected.finish_reason
    assert found.usage.completion_tokens == expected.num_tokens
    assert found.usage.prompt_tokens == 5


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_streamed_joins_to_what_is_not(client, name):
    asked = dict(model=name, prompt=["Hello", "One, two"], max_tokens=20, temperature=0, n=2, echo=True)
    whole = client.completions.create(**asked)
    texts, reasons, usage = [""] * 4, [None] * 4, None
    for chunk in client.completions.create(stream=True, stream_options={"include_usage": True}, **asked):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert texts[0] == texts[1]
    assert texts[2].startswith("One, two")
    assert usage == whole.usage


@pytest.mark.parametrize("name", MAKERS)
def test_a_chat_is_a_text_with_the_turns_by_name(client, name):
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    asked = dict(model=name, max_completion_tokens=9, temperature=0)
    found = client.chat.completions.create(messages=turns, **asked)
    as_text = "Be short.\nUser: Hi\nAssistant:"
    expected = client.completions.create(model=name, prompt=as_text, max_tokens=9, temperature=0)
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].message.content == expected.choices[0].text
    chunks = list(client.chat.completions.create(messages=turns, stream=True, **asked))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.choices[0].text
    assert chunks[-1].choices[0].finish_reason == found.choices[0].finish_reason


def test_as_much_as_there_is_room_for_is_written_where_a_chat_names_no_length(client):
    turns = [{"role": "user", "content": "Hi"}]
    found = client.chat.completions.create(model="plain", messages=turns, seed=1, temperature=2)
    assert found.usage.completion_tokens <= 64 - found.usage.prompt_tokens
    assert found.choices[0].finish_reason in ("stop", "length")


def test_models_are_listed_and_their_state_is_told(client, address):
    assert [model.id for model in client.models.list()] == list(MAKERS)
    assert client.models.retrieve("heads").id == "heads"
    health = httpx.get(f"{address}/health").json()
    assert health["status"] == "ok"
    assert health["models"]["plain"] == {"running": 0, "waiting": 0}


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        (dict(temperature=3), "temperature"),
        (dict(n=0), "n"),
        (dict(n=17), "n"),
        (dict(prompt=[]), "prompt"),
        (dict(prompt=["a"] * 17), "prompt"),
        (dict(max_tokens=-1), "max_tokens"),
        (dict(max_tokens=1025), "max_tokens"),
        (dict(max_tokens=60), "prompt"),
        (dict(prompt="a" * 99), "prompt"),
        (dict(prompt=[1, 2]), "prompt"),
        (dict(stop=["a"] * 5), "stop"),
        (dict(stop=""), "stop"),
        (dict(logprobs=0), "logprobs"),
        (dict(suffix="end"), "suffix"),
        (dict(presence_penalty=0.5), "presence_penalty"),
        (dict(extra_body={"colour": "red"}), "colour"),
    ],
)
def test_mistakes_are_told_in_openais_form(client, changed, param):
    with pytest.raises(BadRequestError) as refused:
        client.completions.create(**{"model": "plain", "prompt": "Hello", "temperature": 0} | changed)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_a_conversation_without_room_is_told_alike_by_every_model(client):
    """Programs cut a conversation where they read this code, which an SLLM's refusal lacked."""
    for name in MAKERS:
        with pytest.raises(BadRequestError) as refused:
            client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Hi. " * 400}])
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


def test_two_lengths_are_one_too_many(client):
    asked = dict(model="plain", messages=[{"role": "user", "content": "Hi"}], max_tokens=2)
    with pytest.raises(BadRequestError, match="give one of them"):
        client.chat.completions.create(max_completion_tokens=3, **asked)
    client.chat.completions.create(max_completion_tokens=2, **asked)


def test_an_unknown_model_is_told(client):
    with pytest.raises(NotFoundError, match="known: plain, heads, sentences") as refused:
        client.completions.create(model="gpt-4", prompt="Hello")
    assert refused.value.code == "model_not_found"


def test_fields_that_ask_for_nothing_are_taken(client):
    asked = dict(model="plain", prompt="Hello", max_tokens=2, temperature=0)
    plain = client.completions.create(**asked)
    more = dict(presence_penalty=0, frequency_penalty=0.0, logit_bias={}, best_of=1, user="me", logprobs=None)
    assert client.completions.create(**asked, **more).choices == plain.choices


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (413, dict(content=b" " * (2 << 20), headers={"content-type": "application/json"})),
        (415, dict(content=b"{}", headers={"content-type": "text/plain"})),
        (400, dict(content=b"{", headers={"content-type": "application/json"})),
        (400, dict(content=b'{"a": NaN}', headers={"content-type": "application/json"})),
        (400, dict(content=b"[" * 100_000, headers={"content-type": "application/json"})),
        (400, dict(content=b'{"model": "plain", "prompt": "\\ud800"}', headers={"content-type": "application/json"})),
        (400, dict(content=b"[1]", headers={"content-type": "application/json"})),
        (400, dict(json={}, headers={"host": "example.org"})),
    ],
)
def test_what_is_no_request_gets_no_answer(address, status, how):
    assert httpx.post(f"{address}/v1/completions", **how).status_code == status


def test_a_path_or_method_that_is_not_there_is_told_in_openais_form(address):
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    wrong = httpx.get(f"{address}/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_who_watches_a_server_may_ask_for_heads_only(address):
    for path in ("/health", "/v1/models", "/v1/models/plain"):
        assert httpx.head(f"{address}{path}").status_code == 200
    assert httpx.head(f"{address}/v1/models/none").status_code == 404
    assert httpx.head(f"{address}/v1/completions").status_code == 405


def test_a_character_without_tokens_is_told(client, monkeypatch):
    """Some tokenizers lack a few, and their bytes, too."""

    def lacking(tokenizer, text):
        raise MissingTokenError("The tokenizer has no tokens for the character '\\x00'.")

    monkeypatch.setattr("sllm.serving.app.encode_text", lacking)
    for stream in (False, True):
        with pytest.raises(BadRequestError, match="no tokens for the character") as refused:
            client.completions.create(model="plain", prompt="a\0", stream=stream)
        assert refused.value.param == "prompt"
