"""Sentences that training cuts further: the same tokens, more sentences, decided by seed, step and window."""

import numpy as np
import pytest
import torch
from tiny import pad

from lmbase.modeling.noise import sample_keys
from sllm_data.extra_cuts import ExtraCuts

TEXTS = [[[10, 11, 12], [13], [14, 15, 16, 17]], [[20, 21]], [], [[30 + i for i in range(12)]] * 5]


def batch_of(texts=TEXTS):
    """With what a teacher may bring: here each token's number."""
    made = pad(texts)
    return made | {"teacher_ids": (7 * made["input_ids"])[..., None].int(), "continues": torch.ones(len(texts)).bool()}


def keys(step=0, texts=(0, 1, 2, 3)):
    return sample_keys(0, step, torch.tensor(texts))


def sentences(batch):
    return [
        [ids[mask].tolist() for ids, mask in zip(*text, strict=True) if mask.any()]
        for text in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def test_it_begins_with_one_token_a_sentence_and_ends_with_true_sentences():
    cuts, batch = ExtraCuts(0.4, 0.0, most=100, cap=99), batch_of()
    first = cuts(batch, keys(), 0.0)
    assert sentences(first) == [[[token] for sentence in text for token in sentence] for text in TEXTS]
    assert first["sentence_mask"].sum(1).tolist() == [8, 2, 0, 60]
    for progress in (0.4, 1.0):
        assert cuts(batch, keys(), progress) is batch
    assert ExtraCuts(0.0, 0.0, most=100, cap=99)(batch, keys(), 0.0) is batch


def test_tokens_keep_their_order_and_what_they_bring_and_true_cuts_stay():
    batch = batch_of()
    cut = ExtraCuts(1.0, 0.0, most=100, cap=99)(batch, keys(), 0.6)
    assert torch.equal(cut["teacher_ids"][..., 0][cut["attention_mask"]], 7 * cut["input_ids"][cut["attention_mask"]])
    assert torch.equal(cut["continues"], batch["continues"])
    for text, found, short in zip(TEXTS, sentences(cut), cut["cut_short"].tolist(), strict=True):
        joined: list[list[int]] = [[]]
        for sentence, goes_on in zip(found, short, strict=False):
            joined[-1] += sentence
            if not goes_on:
                joined.append([])
        assert joined[:-1] == text
    assert max(len(sentence) for sentence in sentences(cut)[3]) > 1


def test_cuts_belong_to_a_window_and_a_step_and_not_to_its_batch():
    cuts = ExtraCuts(1.0, 0.3, most=100, cap=99)
    together = sentences(cuts(batch_of(), keys(3), 0.5))
    alone = [sentences(cuts(batch_of([TEXTS[i]]), keys(3, (i,)), 0.5))[0] for i in range(4)]
    assert together == alone
    assert together != sentences(cuts(batch_of(), keys(4), 0.5))


def test_no_more_sentences_than_there_is_room_for():
    counts = [len(text) for text in sentences(ExtraCuts(1.0, 0.0, most=7, cap=99)(batch_of(), keys(), 0.0))]
    assert counts == [7, 2, 0, 7]
    few = sentences(ExtraCuts(1.0, 0.0, most=2, cap=99)(batch_of(), keys(), 0.0))
    assert [len(text) for text in few] == [3, 2, 0, 5]  # true sentences stay, in any case


@pytest.mark.parametrize(("fading", "kept"), [(0.5, 0.0), (0.0, 0.25), (0.4, 1.0)])
def test_so_many_cuts_are_made_as_the_shares_say(fading, kept):
    cuts, made, later = ExtraCuts(fading, kept, most=10**6, cap=999), [], []
    batch = batch_of([[[5] * 201]] * 100)
    numbers = torch.arange(100)
    for step in range(40):
        found = cuts(batch, sample_keys(1, step, numbers), step / 40)["sentence_mask"].sum(1) - 1
        made.append(found.float().mean() / 200)
        later += found.tolist() if step >= 40 * fading else []
    assert float(np.mean(made)) == pytest.approx(cuts.mean_probability, abs=0.02)
    assert np.mean(np.array(later) > 0) == pytest.approx(kept, abs=0.03)


def test_no_piece_of_a_sentence_that_the_cap_ends_is_the_end_of_one():
    batch = batch_of([[[*range(10, 22)], [*range(30, 42)], [50, 51]]])
    cut = ExtraCuts(1.0, 0.0, most=100, cap=12)(batch, keys(texts=(0,)), 0.5)
    last_tokens = [sentence[-1] for sentence in sentences(cut)[0]]
    ends = {token for token, short in zip(last_tokens, cut["cut_short"][0].tolist(), strict=True) if not short}
    assert {21, 41} <= set(last_tokens)
    assert len(last_tokens) > 5
    assert ends == {51}
