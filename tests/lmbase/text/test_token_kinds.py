"""Kinds of tokenizers: what they are told apart by, what makes them exact, and where pieces may be joined."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers_of_kinds import BYTE_FALLBACK, BYTE_LEVEL, make_tokenizer
from transformers import PreTrainedTokenizerFast

from lmbase.text import RULES, segment
from lmbase.text.codec import codec_of
from lmbase.text.token_kinds import KINDS, exact_settings, joining_white_space, kind_of, steps_of
from lmbase.text.tokenizers import load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")
JOINING = {name: make_tokenizer(name) for name in BYTE_LEVEL} | {"bytes": load_tokenizer("bytes")}
PIECES = [
    "the",
    " cat",
    "\n",
    ". ",
    ".\n",
    "\r\n",
    ".\r\n",
    "!\n\n",
    " 12",
    "34",
    "3.14",
    "\t",
    "  ",
    "'s",
    "é",
    "。",
    "<think>",
]
texts = st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


def settings_of(tokenizer: PreTrainedTokenizerFast) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.mark.parametrize("name", [*BYTE_LEVEL, *BYTE_FALLBACK])
def test_kinds_are_told_apart_by_settings(name: str) -> None:
    assert kind_of(settings_of(make_tokenizer(name))).name == ("byte-level" if name in BYTE_LEVEL else "byte fallback")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_byte_has_its_token(kind) -> None:
    tokens = [kind.byte_token(byte) for byte in range(256)]
    assert [kind.token_bytes(token) for token in tokens] == [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize("name", [*BYTE_LEVEL, *BYTE_FALLBACK])
def test_exact_settings_add_nothing_and_are_a_tokenizer(name: str) -> None:
    exact = exact_settings(settings_of(make_tokenizer(name)))
    types = {step["type"] for part in ("normalizer", "pre_tokenizer") for step in steps_of(exact[part])}
    assert not types & {"Prepend", "NFC"}
    assert exact_settings(exact) == exact
    tokenizer = Tokenizer.from_str(json.dumps(exact))
    assert tokenizer.encode("the cat", add_special_tokens=False).tokens[0][0] == "t"


def test_where_pieces_may_be_joined() -> None:
    found = {name: joining_white_space(exact_settings(settings_of(JOINING[name]))) for name in JOINING}
    everywhere = "".join(sorted(" \n\r\t"))
    assert found == {"gpt2": everywhere, "bytes": everywhere, "smollm2": everywhere, "llama3": " ", "qwen2": " "}
    for name in BYTE_FALLBACK:
        assert joining_white_space(exact_settings(settings_of(make_tokenizer(name)))) == ""


@given(st.sampled_from(sorted(JOINING)), st.sampled_from(RULES), texts)
def test_joined_pieces_have_the_ids_of_single_ones(name: str, rule: str, text: str) -> None:
    codec = codec_of(JOINING[name])
    pieces = segment(text, rule)
    runs: list[list[str]] = []
    for piece in pieces:
        if runs and piece[0] in codec.joining_white_space and not runs[-1][-1][-1].isspace():
            runs[-1].append(piece)
        else:
            runs.append([piece])
    for run in runs:
        assert codec.encode("".join(run)) == [i for piece in run for i in codec.encode(piece)]


@given(st.sampled_from(sorted(JOINING)), texts, texts)
def test_any_text_may_be_cut_behind_a_visible_character(name: str, before: str, after: str) -> None:
    codec = codec_of(JOINING[name])
    before = before.rstrip() or "x"
    for space in codec.joining_white_space:
        joined = codec.encode(before + space + after)
        assert joined == codec.encode(before) + codec.encode(space + after)


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: backend.add_tokens([AddedToken("the cat")]),
        lambda backend: backend.add_tokens([AddedToken("cat", lstrip=True)]),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.ByteLevel(False, use_regex=False)),
        lambda backend: setattr(
            backend,
            "pre_tokenizer",
            pre_tokenizers.Sequence([pre_tokenizers.Split("a", "isolated"), pre_tokenizers.ByteLevel(False)]),
        ),
    ],
)
def test_nothing_is_claimed_of_other_tokenizers(change) -> None:
    tokenizer = make_tokenizer("gpt2")
    change(tokenizer.backend_tokenizer)
    assert joining_white_space(settings_of(tokenizer)) == ""
