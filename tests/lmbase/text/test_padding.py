"""Padding stands behind what it fills up, and masks say where."""

import numpy as np
import pytest
import torch
from tiny import make_mtp, make_opt, make_sllm, make_vae

from lmbase.modeling.token_lm import TokenLM
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


# -- the side of the padding -------------------------------------------------------------------------------------------

IDS = torch.tensor([[104, 105, 106, 107], [108, 109, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
ENDS = torch.tensor([True, True])


def token_level(model):
    def nats(ids, mask):
        return model.nats(ids, mask, ENDS)

    return [nats, lambda ids, mask: model(ids, mask, ENDS)]


def sentence_level(model):
    def sentences(method):
        return lambda ids, mask: method(ids[None], mask[None], torch.ones(1, 2, dtype=torch.long))

    def texts(method):  # each row of ids is a text of one-token sentences
        return lambda ids, mask: method(ids[..., None], mask[..., None], mask)

    found = [sentences(model), texts(model), sentences(model.nats), texts(model.nats)]
    return [*found, sentences(model.prefill), texts(model.prefill)]


ENTRIES = {
    "plain": lambda: token_level(TokenLM(make_opt()).eval()),
    "heads": lambda: token_level(make_mtp().eval()),
    "sentences": lambda: sentence_level(make_sllm()),
    "autoencoder": lambda: [(vae := make_vae()), vae.encode, vae.encode_states],
}


@pytest.mark.parametrize("kind", ENTRIES)
@torch.no_grad()
def test_B5_padding_on_the_left_is_refused_and_masks_of_integers_are_masks(kind):
    for entry in ENTRIES[kind]():
        found, expected = flat(entry(IDS, MASK)), flat(entry(IDS, MASK.bool()))
        assert found
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        for ids, mask in ((IDS.flip(1), MASK.flip(1)), (IDS, torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0]]))):
            with pytest.raises(ValueError, match="padding stands before or between what is read"):
                entry(ids, mask)


def flat(value):
    """All tensors in a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if hasattr(value, "__dict__"):
        value = list(vars(value).values())
    return [tensor for one in value for tensor in flat(one)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_mask_that_is_added_to_scores_is_refused(kind):
    """It has 0 where the other has 1: what was to be read would have been hidden, and the padding read."""
    added = (1 - MASK.float()) * torch.finfo(torch.float32).min
    for entry in ENTRIES[kind]():
        with pytest.raises(ValueError, match=r"mask holds -3\.4.*: give 1 for what is read and 0 for padding"):
            entry(IDS, added)
