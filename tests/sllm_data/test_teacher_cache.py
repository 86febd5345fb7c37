"""A teacher's cache says when it is damaged, and when it is not one of these data."""

from pathlib import Path

import numpy as np
import pytest
from small_corpora import TEXTS, corpus_of

from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from sllm_data.prepare import prepare
from sllm_data.teacher_cache import TeacherCache, stream_hash
from sllm_data.write_teacher_cache import write_teacher_cache


def prepared(folder: Path, texts: list[str], cap: int = 32):
    processor = SentenceProcessor(load_tokenizer("bytes"), "punctuation", cap)
    return prepare(corpus_of(texts), processor, folder, num_workers=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("data"), TEXTS[:4])


@pytest.fixture
def folder(data, tmp_path):
    split = data.split("train")
    settings = dict(teacher="t", teacher_hash="h", tokenizer="k", data="small", data_hash=data.hash, top=2, num_ids=260)
    settings |= dict(tokens=100, tokens_hash=stream_hash(split, 100), context=32, dtype="fp32")
    ones = lambda rows, firsts: (np.array(1), np.array(-1.0))  # noqa: E731
    write_teacher_cache(tmp_path / "cache", split, settings, ones)
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["00000.npy", "teacher.json", "manifest.json"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-3], lambda b: b"", lambda b: b.replace(b"a", b"b").replace(b"\0", b"\1")]
)
def test_damage_is_told(folder, name, damage):
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cache in .* is damaged.*distil-cache"):
        TeacherCache.load(folder)


def test_what_is_no_cache_is_told(tmp_path, folder):
    with pytest.raises(ValueError, match="holds no teacher's cache"):
        TeacherCache.load(tmp_path)
    (folder / "00000.npy").unlink()
    with pytest.raises(ValueError, match=r"00000\.npy"):
        TeacherCache.load(folder)


def test_data_whose_first_tokens_are_the_same_are_the_same(tmp_path, folder, data):
    """However sentences are cut in them, and whatever follows."""
    cache = TeacherCache.load(folder)
    cache.check_data(data, "k")
    cache.check_data(prepared(tmp_path / "more", TEXTS[:6], cap=8), "k")


@pytest.mark.parametrize(
    "texts",
    [["Other" + TEXTS[0], *TEXTS[1:4]], TEXTS[1:4], [TEXTS[0] + TEXTS[1], *TEXTS[2:4]], ["Short."]],
    ids=["another word", "a text less", "two texts in one", "too few tokens"],
)
def test_a_cache_of_other_data_is_refused(tmp_path, folder, texts):
    with pytest.raises(ValueError, match=r"made from other data \('small', SHA-256 \w{8}\)"):
        TeacherCache.load(folder).check_data(prepared(tmp_path / "other", texts), "k")


def test_a_cache_of_another_tokenizer_is_refused(folder, data):
    with pytest.raises(ValueError, match=r"another tokenizer .* prepare the data with the teacher's"):
        TeacherCache.load(folder).check_data(data, "l")


def test_its_hash_changes_with_the_teacher_and_not_with_its_place(folder):
    cache = TeacherCache.load(folder)
    hashes = {
        TeacherCache(folder, cache.configuration | changed, [np.zeros(1)]).hash
        for changed in ({}, {"teacher": "moved"}, {"teacher_hash": "other"}, {"tokens_hash": "other"})
    }
    assert len(hashes) == 3
