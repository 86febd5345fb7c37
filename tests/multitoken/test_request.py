"""A call of generate: what is refused, and how its output is handed out."""

import threading
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from families import MAKERS
from learned import PROMPTS
from transformers import BatchEncoding

from multitoken.request import Request, ended
from multitoken.stream import Stream


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_draft=4), "3 heads, so choose 1"),
        (dict(num_draft=0), "3 heads, so choose 1"),
        (dict(num_draft=True), "3 heads, so choose 1"),
        (dict(num_draft="often"), "or 'auto'"),
        (dict(tree=[[0], [0, 0], [0, 0, 0]]), "takes 4 heads; this model has 3"),
        (dict(tree=[[99]]), "candidate 99 of 64"),
        (dict(tree=[[0, 0]]), "hangs in the air"),
        (dict(num_beams=3), "num_beams"),
        (dict(text="a"), "either input_ids or text"),
        (dict(max_new_tokens=-1), "0 or more"),
    ],
)
def test_wrong_settings_are_refused(counter, options, words):
    with pytest.raises(ValueError, match=words):
        counter.generate(torch.tensor([PROMPTS[0]]), **options)


ONE: list[dict] = [
    dict(input_ids="One."),
    dict(input_ids=["One."]),
    dict(text="One."),
    dict(settings={"inputs": "One."}),
]


@pytest.mark.parametrize("given", ONE, ids=str)
def test_a_text_is_a_list_of_one_wherever_it_is_given(given):
    assert Request(**given).prompt() == ["One."]


@pytest.mark.parametrize(
    "given", [dict(input_ids="a", text="a"), dict(text=[]), dict(text=[3]), dict(input_ids=[[5, 6]])], ids=str
)
def test_what_is_no_prompt_is_refused(given):
    with pytest.raises(ValueError, match=r"either input_ids or text|neither a tensor of ids nor a text"):
        Request(**given).prompt()


class Streamer:
    def __init__(self):
        self.events = []

    def put(self, value):
        self.events.append(value.tolist())

    def end(self):
        self.events.append("end")


def test_a_streamer_is_told_the_end_whatever_happens():
    streamer = Streamer()
    with suppress(KeyboardInterrupt), ended(streamer):
        stream = Stream(streamer)
        stream.put(torch.tensor([2, 5]))
        stream.show([7, 8])
        stream.show([])  # nothing new, nothing shown
        with ended(streamer):  # who is called by one that tells the end leaves it to that one
            pass
        raise KeyboardInterrupt
    assert streamer.events == [[2, 5], [7, 8], "end"]


def test_a_caller_in_another_thread_tells_the_end_of_its_own():
    streamer = Streamer()

    def another():
        with ended(streamer):
            pass

    with ended(streamer):
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
        assert streamer.events == ["end"]
    assert streamer.events == ["end", "end"]


def test_a_streamer_of_several_texts_is_refused_before_anything_is_written(counter):
    streamer = Streamer()
    with pytest.raises(ValueError, match="shows one text, and 2 prompts were given"):
        counter.generate(torch.tensor([[2, 5], [2, 6]]), streamer=streamer)
    assert streamer.events == ["end"]


@pytest.mark.parametrize("given", [torch.zeros(1, 3), torch.zeros(0, 3, dtype=torch.long), np.zeros((1, 3))])
def test_ids_that_are_none_are_told_in_one_sentence(given):
    with pytest.raises(ValueError, match=r"give a \(B, L\) tensor of whole numbers, B at least 1"):
        Request(input_ids=given).prompt()


def test_an_array_of_whole_numbers_is_a_prompt():
    given: Any = np.array([[5, 6]], dtype=np.int32)
    assert torch.equal(torch.as_tensor(Request(input_ids=given).prompt()), torch.tensor([[5, 6]]))


@pytest.fixture(scope="module")
def heads():
    """A model with a tokenizer."""
    return MAKERS["heads"]("llama")


def test_a_prompt_that_can_be_read_once_is_read_once(heads):
    texts = ["One.", "Two"]
    settings = dict(max_new_tokens=3, num_draft=1)
    expected = heads.generate(text=texts, **settings).texts
    assert heads.generate(text=(text for text in texts), **settings).texts == expected
    assert heads.generate(text=dict.fromkeys(texts).keys(), **settings).texts == expected
    ids, mask = np.array([[20, 21, 22], [20, 1, 1]]), np.ones((2, 3), np.int64)
    mask[1, 1:] = 0
    whole = heads.generate(torch.tensor(ids), torch.tensor(mask), **settings).sequences
    assert torch.equal(heads.generate(ids, mask, **settings).sequences, whole)
    with pytest.raises(ValueError, match=r"BatchEncoding has names.*generate\(\*\*output\)"):
        heads.generate(BatchEncoding({"input_ids": ids}), **settings)


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        ([1, 2], "one number, or a list of a seed"),
        ([(1, 0)], "a list of 1 and 2 texts"),
        ([(1, 0), (-1, 1)], "seed=-1"),
    ],
)
def test_seeds_of_another_shape_are_refused(heads, seed, words):
    with pytest.raises(ValueError, match=words):
        heads.generate(text=["a", "b"], do_sample=True, seed=seed)


def test_a_setting_that_changes_nothing_is_no_error(heads):
    greedy = heads.generate(text="a", max_new_tokens=4).texts
    assert heads.generate(text="a", max_new_tokens=4, do_sample=False, temperature=0.0).texts == greedy
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        heads.generate(text="a", do_sample=True, temperature=0.0)
