"""Training items: single sentences, windows of sentences, windows of tokens; each unit of the data once."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lmbase.modeling.token_lm import TokenLM
from lmbase.training.batches import count_tokens, steps_for
from lmbase.training.validation import validation_loss
from sllm_data.datasets import SentenceDataset, SentenceWindowDataset, TokenWindowDataset
from sllm_data.prepared import PreparedSplit

PAD = 1
# Two documents: sentences of 3, 2, 4 tokens, and of 1, 5; two bytes for each token.
LENGTHS = [[3, 2, 4], [1, 5]]


@pytest.fixture(scope="module")
def split():
    """The arrays of a prepared split, without its files."""
    split = PreparedSplit([])
    lengths = np.array([n for document in LENGTHS for n in document])
    split.document_sentences = np.cumsum([0, *map(len, LENGTHS)])
    split.sentence_tokens = np.cumsum([0, *lengths])
    split.sentence_bytes = (2 * lengths).astype(np.int32)
    split._tokens = [np.arange(10, 10 + lengths.sum(), dtype=np.int32)]
    split._starts = np.array([0, lengths.sum()])
    return split


def every_token(items):
    batch = items.batch(np.arange(len(items)))
    return sorted(batch["input_ids"][batch["attention_mask"]].tolist())


@pytest.mark.parametrize(
    "make",
    [
        lambda split: SentenceDataset(split, PAD),
        lambda split: SentenceWindowDataset(split, PAD, 2),
        lambda split: SentenceWindowDataset(split, PAD, 64),
        lambda split: TokenWindowDataset(split, PAD, 4),
        lambda split: TokenWindowDataset(split, PAD, 64),
    ],
)
def test_items_hold_every_token_once_and_know_their_sizes(split, make):
    items = make(split)
    assert every_token(items) == list(range(10, 25))
    sizes = [count_tokens(items.batch(np.array([i]))) for i in range(len(items))]
    assert items.lengths.tolist() == sizes
    assert items.num_bytes.tolist() == pytest.approx([2 * n for n in sizes])


def test_single_sentences(split):
    batch = SentenceDataset(split, PAD).batch(np.array([1, 3]))
    assert batch["input_ids"].tolist() == [[13, 14], [19, PAD]]
    assert batch["attention_mask"].tolist() == [[True, True], [True, False]]


def test_windows_of_sentences_know_whether_the_document_goes_on(split):
    items = SentenceWindowDataset(split, PAD, 2)
    batch = items.batch(np.arange(3))
    assert batch["continues"].tolist() == [True, False, False]
    assert batch["sentence_mask"].tolist() == [[True, True], [True, False], [True, True]]
    assert batch["input_ids"][0].tolist() == [[10, 11, 12, PAD, PAD], [13, 14, PAD, PAD, PAD]]


def test_windows_of_tokens_know_whether_they_hold_the_end(split):
    items = TokenWindowDataset(split, PAD, 4)
    batch = items.batch(np.arange(len(items)))
    assert batch["ends"].tolist() == [False, False, True, False, True]
    assert batch["input_ids"][2].tolist() == [18, PAD, PAD, PAD]


def test_steps_for_a_number_of_tokens(split):
    items = SentenceDataset(split, PAD)  # 3 tokens on average
    assert steps_for(600, items, batch_size=10) == 20
    assert steps_for(1, items, batch_size=10) == 1


def test_validation_loss_divides_sums(split, opt):
    """The figures do not depend on how the items are batched: sums are divided once."""
    items = TokenWindowDataset(split, PAD, 4)
    model = TokenLM(opt)
    figures = [validation_loss(model, items, 100, batch_size) for batch_size in (1, 2, 100)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    assert figures[0] == pytest.approx(figures[2], rel=1e-5)
    batch = items.batch(np.arange(len(items)))
    nats = model.nats(**batch).sum().item()
    assert figures[0]["token"] == pytest.approx(nats / 17, rel=1e-5)  # 15 tokens and two document ends
    assert figures[0]["bits_per_byte"] == pytest.approx(nats / np.log(2) / 30, rel=1e-5)
    assert figures[0]["perplexity"] == pytest.approx(np.exp(nats / 17), rel=1e-4)


def test_validation_loss_takes_evenly_spread_items(split):
    items = SentenceDataset(split, PAD)
    seen: Counter = Counter()

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, attention_mask):
            seen.update(input_ids[:, 0].tolist())
            return SimpleNamespace(losses={"token": torch.ones(())}, correct=0)

        def loss_counts(self, **batch):
            return {"token": 1}

    validation_loss(Model(), items, max_items=3, batch_size=1)
    assert seen == Counter([10, 15, 20])  # first, middle and last sentence
