"""Ends that are told while tokens come are those that a text is cut at, whatever follows."""

import numpy as np
import pytest
from cut_texts import LONG, PARAMETERS, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import make_processor

from lmbase.text import is_unicode
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from lmbase.text.told_ends import told_sentences, told_stops, whole_tokens


def processor_of(tokenizer: str = "bytes", longest: int = 12) -> SentenceProcessor:
    if tokenizer == "bytes":
        return make_processor("learned", longest, punkt=PARAMETERS)
    made = load_tokenizer(tokenizer, lambda: iter([LONG.replace("\ud800", "")] * 3))
    return SentenceProcessor(made, "learned", longest, PARAMETERS)


@pytest.mark.parametrize(("tokenizer", "longest"), [("bytes", 4096), ("bytes", 9), ("bpe:300", 4096)])
@given(text=texts, begin=st.integers(0, 20_000))
@settings(max_examples=20, deadline=None)
@example(text="", begin=0)
@example(text=" \n ", begin=9_000)
def test_told_as_cut(tokenizer, longest, text, begin):
    processor = processor_of(tokenizer, longest)
    text = "".join(c for c in LONG[begin : begin + 3000] + text if is_unicode(c))
    encoded = processor.encode(text)
    assert processor.decode(encoded.input_ids) == text
    assert sum(encoded.sentence_bytes) == len(text.encode())
    assert told_sentences(encoded.input_ids, processor.told_ends()) == (encoded.sentences() or [[]])


@given(st.lists(st.integers(0, 255), max_size=300), texts)
@settings(max_examples=60, deadline=None)
def test_any_ids_are_cut_as_they_come(numbers, text):
    """Broken characters, too: what is written need be no text."""
    processor = processor_of()
    ids = [*processor.encode("".join(c for c in text if is_unicode(c))).input_ids, *(3 + n for n in numbers)]
    ids = [i for i in ids if i not in processor.codec.special_ids]
    told, sentences = processor.told_ends(), processor.cut_ids(ids)
    assert [i for sentence in sentences for i in sentence] == ids
    for number, sentence in enumerate(sentences):
        flags = [told.add([i]) for i in sentence]
        assert not any(flags[:-1])
        assert number == len(sentences) - 1 or flags[-1]


def test_a_prompt_is_open_unless_its_end_is_told():
    processor = processor_of()
    sentences = processor.encode("".join(c for c in LONG if is_unicode(c))).sentences()
    closed = [s for s in sentences[:-1] if len(s) < 9]
    assert len(closed) > 20
    number = sentences.index(closed[-1])
    assert processor.split_open_end(sentences[: number + 1]) == (sentences[: number + 1], [])
    shorter = [*sentences[:number], sentences[number][:-1]]
    assert processor.split_open_end(shorter) == (shorter[:-1], shorter[-1])


def test_sentences_end_with_characters():
    ends = np.array([1, 3, 4, 6, 7, 10])
    characters, tokens = whole_tokens("aé 日本", ends)  # of 1, 2, 1, 3, 3 bytes
    assert (characters.tolist(), tokens.tolist()) == ([1, 2, 3, 4, 5], [1, 2, 3, 5, 6])
    assert told_stops("x" * 11, np.arange(1, 12), None, 6).tolist() == [3, 6, 9, 11]
    assert told_stops("éa" * 3, np.arange(1, 10), None, 5).tolist() == [2, 5, 8, 9]
