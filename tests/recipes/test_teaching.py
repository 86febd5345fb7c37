"""A teacher's rows stand where the tokens of a batch stand, and a training's reach is known before it begins."""

import numpy as np
import pytest
import torch
from small_corpora import TEXTS, corpus_of

from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from sllm_data.datasets import SentenceWindowDataset, TokenWindowDataset
from sllm_data.prepare import prepare
from sllm_data.teacher_cache import TeacherCache
from sllm_recipes.teaching import TaughtItems, Teaching


class Cache(TeacherCache):
    """Says of each token its place."""

    def __init__(self, num_tokens):
        self.num_tokens = num_tokens

    def rows(self, positions):
        return positions[..., None].astype(np.int32), np.where(positions < 0, -np.inf, -1.0)[..., None]


class Items:
    stops = np.arange(10, 110, 10)

    def __len__(self):
        return len(self.stops)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    processor = SentenceProcessor(load_tokenizer("bytes"), "punctuation", 32)
    return prepare(corpus_of(TEXTS[:9]), processor, tmp_path_factory.mktemp("data"), num_workers=1).split("train")


@pytest.mark.parametrize("dataset", [TokenWindowDataset, SentenceWindowDataset])
def test_each_token_of_a_batch_brings_its_row(split, dataset):
    items = dataset(split, 1, 5)
    chosen = np.array([7, 0, len(items) - 1])
    batch = TaughtItems(items, Cache(split.num_tokens)).batch(chosen)
    assert batch.keys() - items.batch(chosen).keys() == {"teacher_ids", "teacher_log_probs"}
    places, mask = batch["teacher_ids"][..., 0], batch["attention_mask"]
    assert places.shape == batch["input_ids"].shape
    tokens = torch.from_numpy(split.tokens(0, split.num_tokens).astype(np.int64))
    assert torch.equal(tokens[places[mask].long()], batch["input_ids"][mask])
    assert torch.equal(batch["teacher_log_probs"][..., 0].isfinite(), mask)
    assert [int(places[b].max()) + 1 for b in range(3)] == items.stops[chosen].tolist()


def test_a_model_is_asked_of_every_batch(split):
    items = TokenWindowDataset(split, 1, 5)
    assert TaughtItems(items, None).batch(np.array([3, 1]))["ask_teacher"].tolist() == [True, True]
    assert len(TaughtItems(items, None)) == len(items)


def test_a_training_is_refused_only_if_it_reads_what_is_not_there():
    def teaching(num_tokens):
        return Teaching("cache", 0.5, "", Cache(num_tokens), None, lambda tokens: 0.0)

    first = int(Items.stops[np.random.default_rng([0, 0]).permutation(10)[:2]].max())
    teaching(first).check_covers(Items(), max_steps=1, batch_size=2, seed=0)
    teaching(100).check_covers(Items(), max_steps=50, batch_size=2, seed=0)
    with pytest.raises(ValueError, match=rf"step 1 of this training reads token {first}: .*without --train_tokens"):
        teaching(first - 1).check_covers(Items(), max_steps=1, batch_size=2, seed=0)
