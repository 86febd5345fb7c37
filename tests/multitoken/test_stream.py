"""What a streamer is handed."""

import asyncio
from threading import Thread
from typing import Any

import pytest
import torch
from tiny import make_processor
from transformers import AsyncTextIteratorStreamer, TextIteratorStreamer, TextStreamer

from lmbase.text.codec import codec_of
from lmbase.text.stop_strings import StopStrings
from multitoken.draft_loop import Stretch
from multitoken.stream import Stream

TOKENIZER = make_processor().tokenizer
SENTENCES = ["きょうはあめです。", "ฝนตกแล้ว", "今日は雨。", "ខ្ញុំស្រលាញ់អ្នក។", "It rained."]


def ids_of(text: str) -> list[int]:
    return codec_of(TOKENIZER).encode(text)


class Shown(TextStreamer):
    """Keeps what a TextStreamer of Transformers would print."""

    def __init__(self):
        super().__init__(TOKENIZER)
        self.parts: list[Any] = []

    def on_finalized_text(self, text, stream_end=False):
        self.parts += [text] * bool(text)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_text_streamer_shows_each_sentence_at_once(sentence):
    streamer = Shown()
    stream = Stream(streamer)
    stream.put(torch.tensor([2]))
    for number in range(1, 4):
        stream.show(ids_of(sentence))
        assert "".join(streamer.parts).count(sentence) == number


def test_half_a_character_waits():
    streamer = Shown()
    stream = Stream(streamer)
    for token in ids_of("é日"):
        stream.show([token])
    assert streamer.parts == ["é", "日"]


def test_iterators_get_the_parts():
    async def asynchronous():
        streamer = AsyncTextIteratorStreamer(TOKENIZER, timeout=20)
        thread = Thread(target=write, args=(streamer,))
        thread.start()
        parts = [part async for part in streamer]
        thread.join()
        return parts

    def write(streamer):
        for sentence in SENTENCES:
            Stream(streamer).show(ids_of(sentence))
        streamer.end()

    streamer = TextIteratorStreamer(TOKENIZER, timeout=20)
    write(streamer)
    for parts in (list(streamer), asyncio.run(asynchronous())):
        assert [part for part in parts if part] == [part for sentence in SENTENCES for part in parts_of(sentence)]


def parts_of(sentence: str) -> list[str]:
    """What a TextStreamer shows by itself ends at a space; the rest comes at once, too."""
    first, space, rest = sentence.rpartition(" ")
    return [part for part in (first + space, rest) if part]


@pytest.mark.parametrize(
    ("text", "stop", "cut"),
    [("one. two", ". t", "one"), ("one. two", "wo", "one. t"), ("日本", "本", "日"), ("no", "x", "no")],
)
def test_no_part_of_a_stop_string_is_shown(text, stop, cut):
    streamer = Shown()
    strings = StopStrings(TOKENIZER, [stop])
    stream, stretch = Stream(streamer, strings, TOKENIZER), Stretch([], 99)
    for token in ids_of(text):
        stretch.new.append(token)
        found = strings.add(token)
        stream.follow(stretch)
        if found:
            break
    stream.close()
    assert "".join(streamer.parts) == cut


def test_a_token_that_holds_text_before_a_stop_string_is_shown_in_part():
    class Ends:
        found = 1
        settled = staticmethod(lambda: 0)
        rest = staticmethod(lambda: "a")

    streamer = Shown()
    stream = Stream(streamer, Ends(), TOKENIZER)  # type: ignore[arg-type]
    stream.show(ids_of("ab"))
    stream.close()
    assert streamer.parts == ["a"]


def test_stretches_are_followed_one_after_the_other():
    streamer = Shown()
    stream = Stream(streamer)
    for text in ("ab", "cd"):
        stretch = Stretch([], 9)
        for token in ids_of(text):
            stretch.new.append(token)
            stream.follow(stretch)
    assert streamer.parts == ["a", "b", "c", "d"]


def test_drafts_go_to_who_shows_them():
    class Drafts(Shown):
        def put_draft(self, ids, num_accepted):
            self.parts.append((ids, num_accepted))

    assert not Stream(Shown()).shows_drafts
    assert not Stream(None).shows_drafts
    streamer = Drafts()
    assert Stream(streamer).shows_drafts
    Stream(streamer).put_draft([5, 6], 1)
    assert streamer.parts == [([5, 6], 1)]


def test_what_waited_for_a_longer_stop_string_is_shown_at_the_end():
    streamer, strings = Shown(), StopStrings(TOKENIZER, ["abcd", "c"])
    stream = Stream(streamer, strings, TOKENIZER)
    for token in ids_of("well abc"):
        stream.show([token])  # some loops hand a token out before they look at it
        strings.add(token)
    stream.close()
    assert "".join(streamer.parts) == "well ab"
