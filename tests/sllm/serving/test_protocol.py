"""What is read of a request, and what a conversation becomes."""

import json

import pytest
from tiny import make_processor
from tokenizers import AddedToken

from sllm.serving.engine import Refused
from sllm.serving.protocol import NOTHING, ChatAsked, CompletionAsked, chat_template, error_json, parse, plain_chat

TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]


def completion(**fields):
    return parse(json.dumps({"model": "m", "prompt": "Hello"} | fields).encode(), CompletionAsked)


def test_null_is_as_good_as_left_out():
    fields = ["max_tokens", "n", "seed", "stop", "stream", "stream_options", "temperature", "top_p", "echo", *NOTHING]
    assert completion(**dict.fromkeys(fields)) == completion()


@pytest.mark.parametrize(("stop", "stops"), [(None, ()), ("a", ("a",)), (["a", "bc"], ("a", "bc")), ([], ())])
def test_stop_is_a_string_or_some(stop, stops):
    assert completion(stop=stop).stops == stops


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_not_done_is_refused_unless_nothing_is_asked_for(name):
    for value in NOTHING[name]:
        completion(**{name: value})
    for value in (17, "ask", ["ask"], {"ask": 1}):
        with pytest.raises(Refused, match=f"{name} is not supported") as refused:
            completion(**{name: value})
        assert (refused.value.status, refused.value.param) == (400, name)


@pytest.mark.parametrize("value", [0, False, True, 5])
def test_zero_logprobs_are_logprobs(value):
    """False asks for none; 0 asks for that of each token, and is equal to False in Python."""
    try:
        completion(logprobs=value)
    except Refused:
        assert value is not False
    else:
        assert value is False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (dict(max_tokens="5"), "max_tokens"),
        (dict(n=True), "n"),
        (dict(temperature=float("inf")), None),
        (dict(model=None), "model"),
        (dict(prompt={}), "prompt"),
        (dict(max_completion_tokens=3), "max_completion_tokens"),
    ],
)
def test_types_are_not_guessed(fields, param):
    with pytest.raises(Refused) as refused:
        completion(**fields)
    assert refused.value.param == param
    assert error_json(refused.value)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "tool", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
        [{"role": "user", "content": [{"type": "text", "text": "x", "image_url": "y"}]}],
        [{"role": "user", "content": "x", "colour": "red"}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "type": "function"}]}],
        [{"role": "assistant", "content": "x", "function_call": {"name": "f", "arguments": "{}"}}],
    ],
)
def test_conversations_of_text_are_read_and_nothing_else(messages):
    with pytest.raises(Refused):
        parse(json.dumps({"model": "m", "messages": messages}).encode(), ChatAsked)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (dict(stop=["a"] * 5), "stop: List should have at most 4 items"),
        (dict(stop=["a", ""]), "stop.1: String should have at least 1 character"),
        (dict(stop="a" * 257), "stop: String should have at most 256 characters"),
        (dict(stop=3), "stop: Input should be a valid string, or: Input should be a valid list"),
        (dict(prompt=["a", 2]), "prompt.1: Input should be a valid string"),
        (dict(colour="red"), "colour: there is no such field here; leave it out, or correct its name"),
    ],
)
def test_faults_are_those_of_the_kind_that_was_given(fields, told):
    """Five stop strings, or an image in a message, were told to be no string, though lists are taken, too."""
    with pytest.raises(Refused, match=f"^{told}"):
        completion(**fields)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([{"type": "image_url"}], "messages.0.content.0.type: Input should be 'text'"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": 3}], "messages.0.content.1.text: Input should be"),
        (None, "messages.0.content: Input should be a valid string, or: Input should be a valid list"),
    ],
)
def test_faults_of_a_message_name_their_place(content, told):
    asked = {"model": "m", "messages": [{"role": "user", "content": content}]}
    with pytest.raises(Refused, match=f"^{told}"):
        parse(json.dumps(asked).encode(), ChatAsked)


def test_an_answer_is_handed_back_as_a_client_holds_it():
    empty = dict.fromkeys(["refusal", "audio", "function_call", "tool_calls", "name"]) | {"annotations": []}
    asked = {"model": "m", "messages": [{"role": "assistant", "content": "Hello", **empty}]}
    assert parse(json.dumps(asked).encode(), ChatAsked).messages[0].text == "Hello"


def test_a_plain_chat_names_who_speaks():
    assert plain_chat(TURNS) == "Be short.\nUser: Hi\nAssistant: Hello\nUser: Bye\nAssistant:"


def test_a_template_of_text_is_the_tokenizers_and_one_of_special_tokens_is_not():
    tokenizer = make_processor().tokenizer
    assert chat_template(tokenizer) is plain_chat
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    assert chat_template(tokenizer)(TURNS[:2]) == "[system] Be short.[user] Hi"
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}ok"
    with pytest.raises(Refused, match="no system"):
        chat_template(tokenizer)(TURNS)
    tokenizer.chat_template = "{{ eos_token }}{{ messages[0].content }}"
    assert chat_template(tokenizer) is plain_chat


def test_special_tokens_without_a_role_make_no_prompt():
    tokenizer = make_processor().tokenizer
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)])
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"
    assert "<|im_start|>" not in tokenizer.all_special_tokens
    assert chat_template(tokenizer) is plain_chat
