"""A teacher's cache: every token in its place, whatever interrupted the writing."""

from pathlib import Path

import numpy as np
import pytest
from small_corpora import TEXTS, corpus_of, files_of

from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from sllm_data import write_teacher_cache as writing
from sllm_data.prepare import prepare
from sllm_data.prepared import PreparedSplit
from sllm_data.teacher_cache import TeacherCache, stream_hash
from sllm_data.write_teacher_cache import write_teacher_cache

TOP, CONTEXT = 3, 41  # windows of 40 tokens
TEXTS = [*TEXTS[:6], "", *TEXTS[-5:]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    processor = SentenceProcessor(load_tokenizer("bytes"), "punctuation", 32)
    return prepare(corpus_of(TEXTS), processor, tmp_path_factory.mktemp("data"), num_workers=1)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(writing, "SHARD_TOKENS", 400)


def settings(split: PreparedSplit, num_tokens: int | None = None, **more) -> dict:
    tokens = num_tokens or split.num_tokens
    fixed = dict(teacher="t", teacher_hash="h", tokenizer="k", data="d", data_hash="0" * 64, top=TOP, num_ids=260)
    return fixed | dict(tokens=tokens, tokens_hash=stream_hash(split, tokens), context=CONTEXT, dtype="fp32") | more


class Teacher:
    """Says the token that it is asked for, how much it has read before it, and the first token of its window."""

    def __init__(self, dies_after: int | None = None):
        self.asked, self.dies_after = 0, dies_after

    def __call__(self, rows, firsts):
        self.asked += 1
        if self.dies_after is not None and self.asked > self.dies_after:
            raise KeyboardInterrupt
        said = [(row[i], i, row[0]) for row, first in zip(rows, firsts, strict=True) for i in range(first, len(row))]
        return np.array(said), -np.array(said) / 8


def flat_positions(split: PreparedSplit) -> tuple[np.ndarray, np.ndarray]:
    """The whole stream, and how many tokens of its own document stand before each."""
    begins = split.sentence_tokens[split.document_sentences]
    before = np.concatenate([np.arange(n) for n in np.diff(begins)])
    return split.tokens(0, split.num_tokens), before


def test_each_token_has_the_row_of_a_window_with_half_of_it_before(data, tmp_path: Path):
    split = data.split("train")
    cache = write_teacher_cache(tmp_path / "cache", split, settings(split), Teacher(), batch_size=3)
    assert len(list((tmp_path / "cache").glob("*.npy"))) > 3
    tokens, before = flat_positions(split)
    ids, log_probs = cache.rows(np.arange(split.num_tokens))
    assert np.array_equal(ids[:, 0], tokens)
    assert np.array_equal(log_probs, (-ids / 8).astype(np.float16))
    assert (ids[:, 1] >= np.minimum(before, 20)).all()
    assert (ids[:, 1] < 40).all()
    assert np.array_equal(ids[:, 2], tokens[np.arange(len(tokens)) - ids[:, 1]])
    assert cache.num_tokens == split.num_tokens == len(tokens)


def test_rows_of_any_places(data, tmp_path: Path):
    split = data.split("train")
    cache = write_teacher_cache(tmp_path, split, settings(split, 1100), Teacher())
    assert cache.num_tokens == 1100
    tokens = split.tokens(0, 1100)
    places = np.array([[1099, -1, 3], [700, 700, -1]])
    ids, log_probs = cache.rows(places)
    assert ids.shape == log_probs.shape == (2, 3, TOP)
    assert ids.dtype == np.int32
    assert np.array_equal(ids[..., 0], np.where(places < 0, 0, tokens[places]))
    assert np.array_equal(np.isneginf(log_probs).all(-1), places < 0)
    with pytest.raises(ValueError, match=r"first 1,100 tokens .* token 1,100 .* without --train_tokens"):
        cache.rows(np.array([5, 1100]))
    empty_ids, _ = cache.rows(np.zeros((0, 4), np.int64))
    assert empty_ids.shape == (0, 4, TOP)


@pytest.mark.parametrize("dies_after", [0, 1, 4, 9])
def test_an_interrupted_run_goes_on_and_makes_the_same_files(data, tmp_path: Path, dies_after):
    split, whole = data.split("train"), Teacher()
    write_teacher_cache(tmp_path / "whole", split, settings(split), whole)
    first, second = Teacher(dies_after), Teacher()
    with pytest.raises(KeyboardInterrupt):
        write_teacher_cache(tmp_path / "cut", split, settings(split), first)
    with pytest.raises(ValueError, match=r"not finished\. Run the same"):
        TeacherCache.load(tmp_path / "cut")
    seconds: list[float] = []
    # the teacher and the data may lie elsewhere by now
    write_teacher_cache(
        tmp_path / "cut", split, settings(split, teacher="moved", data="too"), second, write_cost=seconds.append
    )
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert second.asked + dies_after >= whole.asked
    assert dies_after < 4 or second.asked < whole.asked
    assert seconds[0] > 0
    again = Teacher()
    write_teacher_cache(tmp_path / "cut", split, settings(split), again, write_cost=seconds.append)
    assert (again.asked, len(seconds)) == (0, 1)


def test_a_shard_that_was_damaged_meanwhile_is_written_anew(data, tmp_path: Path):
    split = data.split("train")
    write_teacher_cache(tmp_path / "whole", split, settings(split), Teacher())
    with pytest.raises(KeyboardInterrupt):
        write_teacher_cache(tmp_path / "cut", split, settings(split), Teacher(5))
    shard = tmp_path / "cut" / "00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with (tmp_path / "cut" / "journal.jsonl").open("a") as file:
        file.write('{"half a li')
    write_teacher_cache(tmp_path / "cut", split, settings(split), Teacher())
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("changed", [{"teacher_hash": "i"}, {"context": 21}, {"top": 2}, {"num_tokens": 900}])
def test_a_folder_of_another_cache_is_refused(data, tmp_path: Path, finished, changed):
    split = data.split("train")
    with pytest.raises(KeyboardInterrupt):
        write_teacher_cache(tmp_path, split, settings(split), Teacher(5))
    if finished:
        write_teacher_cache(tmp_path, split, settings(split), Teacher())
    with pytest.raises(ValueError, match=f"{'tokens' if 'num_tokens' in changed else next(iter(changed))}: .* -> "):
        write_teacher_cache(tmp_path, split, settings(split, **changed), Teacher())


def test_many_ids_take_four_bytes(data, tmp_path: Path):
    split, said = data.split("train"), Teacher()

    def ask(rows, firsts):
        ids, log_probs = said(rows, firsts)
        return ids + 66_000, log_probs

    cache = write_teacher_cache(tmp_path, split, settings(split, 60, num_ids=70_000), ask)
    assert cache.rows(np.array([3]))[0][0, 0] == split.tokens(3, 4)[0] + 66_000
