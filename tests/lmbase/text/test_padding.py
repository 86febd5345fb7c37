"""Padding stands behind what it fills up, and masks say where."""

import numpy as np
import pytest
import torch

from lmbase.text.padding import between_padding, pad_sentences, pad_tokens


def test_sentences():
    batch = pad_sentences([[[5, 6], [7]], [[8, 9, 10]], []], pad_token_id=1)
    assert batch.input_ids.tolist() == [
        [[5, 6, 1], [7, 1, 1]],
        [[8, 9, 10], [1, 1, 1]],
        [[1, 1, 1], [1, 1, 1]],
    ]
    assert batch.attention_mask.sum(-1).tolist() == [[2, 1], [3, 0], [0, 0]]
    assert batch.sentence_mask.tolist() == [[True, True], [True, False], [False, False]]
    assert batch.attention_mask.dtype == batch.sentence_mask.dtype == torch.bool


def test_a_pad_id_that_is_a_real_token_stays_visible():
    batch = pad_sentences([[[1, 5]]], pad_token_id=1)
    assert batch.attention_mask.all()


def test_no_sentence_at_all_still_has_a_shape():
    assert pad_sentences([[]], pad_token_id=1).input_ids.shape == (1, 1, 1)


def test_tokens_from_lists_and_arrays():
    rows: list = [[5, 6, 7], np.array([8], dtype=np.int32), []]
    ids, mask = pad_tokens(rows, pad_token_id=1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1], [1, 1, 1]]
    assert ids.dtype == torch.long
    assert mask.sum(-1).tolist() == [3, 1, 0]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 1, 5, 6], [0, 0, 1, 1]),
        ([5, 6, 1, 1], [1, 1, 0, 0]),
        ([1, 5, 1, 6, 1], [0, 1, 1, 1, 0]),
        ([1, 1], [0, 0]),
        ([], []),
    ],
)
def test_only_what_stands_before_and_after_a_text_is_padding(ids, expected):
    ids = torch.tensor([ids], dtype=torch.long)
    assert between_padding(ids, 1)[0].tolist() == [bool(value) for value in expected]
