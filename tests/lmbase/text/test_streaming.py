"""Text that is shown as it is written."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_processor
from tokenizers_of_kinds import BYTE_FALLBACK, BYTE_LEVEL, make_tokenizer

from lmbase.text.codec import codec_of
from lmbase.text.streaming import TextStream, written_text

BYTES = make_processor().tokenizer


def shown(tokenizer, ids, step=1) -> list[str]:
    """What a stream shows after each part of so many ids."""
    parts: list[str] = []
    stream = TextStream(tokenizer, parts.append)
    for start in range(0, len(ids), step):
        stream.put(torch.tensor(ids[start : start + step]))
    stream.end()
    assert parts.pop() == "\n"
    return parts


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 9))
def test_all_of_a_text_is_shown(text, step):
    assert "".join(shown(BYTES, codec_of(BYTES).encode(text), step)) == text


@pytest.mark.parametrize("kind", [*BYTE_LEVEL, *BYTE_FALLBACK])
def test_D4_a_character_that_is_not_whole_is_held_back(kind):
    tokenizer = make_tokenizer(kind)
    ids = codec_of(tokenizer).encode("日本 \N{OWL}")
    for stop in range(len(ids) + 1):
        text = written_text(tokenizer, ids[:stop])
        assert "日本 \N{OWL}".startswith(text)
        assert text == "".join(shown(tokenizer, ids[:stop]))


def test_D4_what_a_prompt_lacks_is_shown_with_what_follows():
    ids = codec_of(BYTES).encode("本!")
    assert written_text(BYTES, ids[1:], before=ids[:1]) == "本!"
    assert written_text(BYTES, [*ids[:1], ids[-1]]) == "\ufffd!"


@pytest.mark.parametrize("text", ["今日は雨。", "ฝนตกแล้ว ", "It rained."])
def test_D5_a_sentence_is_shown_whole_at_once(text):
    parts: list[str] = []
    stream = TextStream(BYTES, parts.append)
    for _ in range(3):
        stream.put(torch.tensor(codec_of(BYTES).encode(text)))
        assert parts.pop() == text


def test_D5_showing_takes_time_in_proportion():
    def seconds(length):
        ids = codec_of(BYTES).encode("日" * length)
        began = time.perf_counter()
        shown(BYTES, ids, step=3)
        return time.perf_counter() - began

    seconds(100)
    assert min(seconds(20_000) for _ in range(3)) < 25 * min(seconds(2_000) for _ in range(3))


def test_another_text_may_follow():
    parts: list[str] = []
    stream = TextStream(BYTES, parts.append)
    for _ in range(2):
        stream.put(torch.tensor(codec_of(BYTES).encode("a本")[:-1]))
        stream.end()
    assert parts == ["a", "\n", "a", "\n"]
