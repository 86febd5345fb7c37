"""Rule `learned`: decided by the text so far alone, saved exactly, refused where it does not fit."""

import json
import time

import numpy as np
import pytest
from cut_texts import LONG, PARAMETERS, UNITS, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import make_processor

from lmbase.text import segment
from lmbase.text.learned import ARRAYS_NAME, LearnedCuts
from lmbase.text.places import TABLE
from lmbase.text.processor import FILE_NAME, SentenceProcessor


@given(texts)
@settings(max_examples=60, deadline=None)
@example(LONG)
def test_lossless_and_white_space_opens(text):
    pieces = segment(text, "learned", punkt=PARAMETERS)
    assert "".join(pieces) == text
    assert all(pieces)
    assert all(not piece[-1].isspace() for piece in pieces[:-1])


@given(texts, texts, st.integers(0, 20_000))
@settings(max_examples=80, deadline=None)
def test_what_follows_moves_no_cut(text, suffix, more):
    """A text that is cut as it arrives is cut as a whole: all is told of a place by the character behind it."""
    text = LONG[:more] + text
    learned = LearnedCuts.of(PARAMETERS)
    whole, other = list(learned.cuts(text)), list(learned.cuts(text + suffix))
    assert whole == [cut for cut in other if cut < len(text)]


def test_numbers_and_words_stay_whole():
    text = "Pi is 3.14, not 1,000 at 10:30; don't, e\u0301.x\u0301! " * 200
    pieces = segment(text, "learned", punkt=PARAMETERS | {"tokens_per_piece": 2.0, "pressure": 900.0})
    joined = "|".join(pieces)
    assert len(pieces) > 500
    assert not [part for part in ("3|", "|14", "1|", "|000", "'|t", "|\u0301") if part in joined]


def test_pieces_are_as_long_as_wanted():
    """The threshold follows the text: of one that has ten times as many marks, not more is cut."""
    for unit in ("some words go on and on and never, ", "a,b,c;d;", "你好。再见，"):
        sizes = [len(piece) / 4 for piece in segment(unit * 2000, "learned", punkt=PARAMETERS)]
        assert 3 < np.mean(sizes) < 13
        assert max(sizes) < 24 + len(unit) / 4 + 1


def test_lengths_hold_along_a_text_unlike_the_train_split():
    """Cut too often at first, since all places surpass the prior's, it is not cut too seldom afterwards."""
    words = np.random.default_rng(1).choice(UNITS, 12_000)
    text = "".join(words).replace("\ud800", "")
    starts = np.array(list(LearnedCuts.of(PARAMETERS | {"prior": PARAMETERS["prior"] - 3000}).cuts(text)))
    numbers, _ = np.histogram(starts, [0, 256, *range(1024, 16 * 1024 + 1, 1024)])
    wanted = 1024 * 16 / 64 / PARAMETERS["tokens_per_piece"]
    assert 4 * numbers[0] > 1.5 * wanted
    assert (numbers[2:] > 0.7 * wanted).all()
    assert (numbers[2:] < 1.5 * wanted).all()


def test_linear_time():
    seconds = []
    for number in (5_000, 50_000):
        text = "some text, more of it. " * number
        started = time.process_time()
        segment(text, "learned", punkt=PARAMETERS)
        seconds.append(time.process_time() - started)
    assert seconds[1] <= 12 * seconds[0]


def test_a_processor_keeps_it(tmp_path):
    text = LONG.replace("\ud800", "")
    processor = make_processor("learned", punkt=PARAMETERS | {"tokenizer_hash": make_processor().tokenizer_hash})
    processor.save_pretrained(tmp_path)
    loaded = SentenceProcessor.from_pretrained(tmp_path)
    assert loaded.fingerprint == processor.fingerprint != make_processor("learned").fingerprint
    assert loaded.encode(text) == processor.encode(text) != make_processor("learned").encode(text)
    assert "table" not in json.loads((tmp_path / FILE_NAME).read_text())["punkt"]


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damaged_weights_are_refused(tmp_path, damage):
    make_processor("learned", punkt=PARAMETERS).save_pretrained(tmp_path)
    file = tmp_path / ARRAYS_NAME
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    file.write_bytes(data if damage == "flip" else data[:100])
    if damage == "delete":
        file.unlink()
    with pytest.raises(ValueError, match=r"sentence_processor.*damaged.*copy it again"):
        SentenceProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"table": np.zeros(5, np.int16)},
        {"table": np.zeros(TABLE, np.float32)},
        {"prior": None},
        {"token_units": [1]},
        {"tokens_per_piece": 1e9},
        {"tokens_per_piece": float("nan")},
        {"pressure": float("inf")},
        {"more": 1},
    ],
)
def test_parameters_that_are_none_are_refused(change):
    with pytest.raises(ValueError, match=r"no parameters of rule 'learned'.*learn-cuts"):
        segment("A text.", "learned", punkt=PARAMETERS | change)


def test_another_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"another tokenizer.*--tokenizer"):
        make_processor("learned", punkt=PARAMETERS | {"tokenizer_hash": "0" * 64})


def test_cuts_of_an_earlier_version_are_refused():
    earlier = {name: value for name, value in PARAMETERS.items() if name != "version"}
    with pytest.raises(ValueError, match=r"version 1, which looked at other things.*learn-cuts"):
        make_processor("learned", punkt=earlier)


def test_the_same_words_look_the_same_wherever_they_stand():
    """Of all that is looked at before a place, nothing depends on how far into the text it stands."""
    text = "one two, three four; " * 400
    (places,) = LearnedCuts.of(PARAMETERS).places(text)
    for later in (42, 700):
        np.testing.assert_array_equal(places.features[:, 40], places.features[:, later])
