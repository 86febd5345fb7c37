"""Stories: a function of (split, seed, index), names that can be looked up and cannot be guessed, text for people."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

from lmbase.text.tokenizers import SPECIAL_TOKENS
from lmbase.training.batches import count_tokens
from sllm_data.synthetic import induction
from sllm_data.synthetic.induction import (
    FIRST_BEGINNING,
    FIRST_END,
    FIRST_WORD,
    PAD,
    VOCABULARY,
    InductionStories,
    decode,
)

NUM = 200


@pytest.fixture(scope="module")
def stories():
    items = InductionStories("train", 0, NUM)
    return [items.story(i) for i in range(NUM)]


def names(ids):
    """Position and tokens of every name: a beginning and an end, which occur nowhere else."""
    starts = [i for i, token in enumerate(ids) if FIRST_BEGINNING <= token < FIRST_END]
    ends = [i for i, token in enumerate(ids) if FIRST_END <= token < FIRST_WORD]
    assert ends == [i + 1 for i in starts]
    return [(i, (ids[i], ids[i + 1])) for i in starts]


def test_the_answers_are_the_second_tokens_of_names_that_occurred_before(stories):
    for ids, answers in stories:
        seen: set[tuple[int, int]] = set()
        expected = []
        for start, name in names(ids):
            if name in seen:
                expected.append(start + 1)
            seen.add(name)
        assert answers == expected
    assert np.mean([len(answers) for _, answers in stories]) > 5


def test_a_story_s_names_share_no_token_so_that_each_answer_follows_from_the_token_before_it(stories):
    for ids, answers in stories:
        different = {name for _, name in names(ids)}
        assert len({token for name in different for token in name}) == 2 * len(different)
        follows: dict[int, int] = {}
        for _, (first, second) in names(ids):
            follows.setdefault(first, second)
        assert all(ids[i] == follows[ids[i - 1]] for i in answers)


def test_other_stories_do_not_tell_a_name(stories):
    """Each beginning has many ends; what few pairs occur twice are as many as chance makes."""
    pairs = [name for ids, _ in stories for name in {name for _, name in names(ids)}]
    assert len(set(pairs)) > 0.7 * len(pairs)
    ends = Counter(first for first, _ in set(pairs))
    assert len(ends) == FIRST_END - FIRST_BEGINNING
    assert min(ends.values()) >= 5


def test_a_story_is_a_function_of_split_seed_and_index(stories):
    again = InductionStories("train", 0, 10_000_000)
    assert [again.story(i) for i in (7, 3)] == [stories[7], stories[3]]
    assert len({tuple(ids) for ids, _ in stories}) == NUM
    for other in (InductionStories("test", 0, NUM), InductionStories("train", 1, NUM)):
        assert not {tuple(other.story(i)[0]) for i in range(NUM)} & {tuple(ids) for ids, _ in stories}


def test_lengths_stay_below_the_longest(stories):
    assert max(len(ids) for ids, _ in stories) <= induction.MAX_TOKENS
    assert 60 < np.mean([len(ids) for ids, _ in stories]) < 100


def test_batches_and_their_answers(stories):
    items, indices = InductionStories("train", 0, NUM), np.array([5, 2, 9])
    batch, answers = items.batch(indices), items.answers(indices)
    assert len(items) == NUM
    assert batch["ends"].tolist() == [True] * 3
    assert answers.shape == batch["input_ids"].shape == batch["attention_mask"].shape
    assert count_tokens(batch) == sum(len(stories[i][0]) for i in indices)
    for row, i in enumerate(indices):
        ids, positions = stories[i]
        assert batch["input_ids"][row][batch["attention_mask"][row]].tolist() == ids
        assert torch.nonzero(answers[row])[:, 0].tolist() == positions
    assert (batch["input_ids"][~batch["attention_mask"]] == PAD).all()


def test_with_known_names_a_beginning_has_one_end_everywhere():
    items = InductionStories("train", 0, NUM, random_names=0.0)
    pairs = {name for i in range(NUM) for _, name in names(items.story(i)[0])}
    assert len(pairs) == len({first for first, _ in pairs}) == FIRST_END - FIRST_BEGINNING
    mixed = InductionStories("train", 0, NUM, random_names=0.5)
    known = [{name for _, name in names(mixed.story(i)[0])} <= pairs for i in range(NUM)]
    assert 0.35 < np.mean(known) < 0.65


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1_is_an_error(share):
    with pytest.raises(ValueError, match=r"random_names=.*from 0 to 1"):
        InductionStories("train", 0, 1, random_names=share)


def test_the_vocabulary_has_opt_s_special_ids_and_every_word_once():
    assert list(VOCABULARY[:4]) == SPECIAL_TOKENS
    for kind in (
        VOCABULARY[FIRST_BEGINNING:FIRST_END],
        VOCABULARY[FIRST_END:FIRST_WORD],
        VOCABULARY[FIRST_WORD:],
    ):
        assert len(set(kind)) == len(kind)


def test_people_read_sentences(stories):
    ids, _ = stories[0]
    text = decode([*ids, PAD, 2])
    assert re.fullmatch(r'[A-Za-z ,.!?"]+[.]', text)
    assert not re.search(r" [.,?!]|\.[a-zA-Z]|  ", text)
    assert text[0].isupper()
    assert {VOCABULARY[a].capitalize() + VOCABULARY[b] for _, (a, b) in names(ids)} <= set(
        re.findall("[A-Z][a-z]+", text)
    )
    assert "{" not in text
