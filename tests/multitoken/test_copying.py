"""Guesses that are copied out of a text."""

import pytest
import torch
from tiny import make_mtp
from transformers import GenerationConfig, LogitsProcessorList

from multitoken.copying import PromptLookup, copied_guesses, make_lookups

PROMPT = [2, 5, 6, 7, 8, 5, 6]


def after(ids, num_tokens=9, **options):
    lookup = PromptLookup(**options)
    lookup.extend(ids)
    return lookup.guess(num_tokens)


def test_what_followed_the_newest_tokens_last_time_is_guessed():
    assert after([5, 6, 7, 8, 5, 6], 4) == [7, 8, 5, 6]
    assert after([5, 6, 7, 8, 5, 6], 2) == [7, 8]
    assert after([5, 6, 7, 5, 6, 8, 5, 6], 1) == [8]  # the latest of equally long matches
    assert after([5, 6, 7, 9, 6, 8, 5, 6], 1) == [7]  # the longer match counts, though it is older
    assert after([5, 6, 7, 9, 6, 8, 5, 6], 1, longest_match=1) == [8]


def test_a_loop_is_followed_further_than_the_text():
    assert after([5, 6, 7, 8, 5, 6]) == [7, 8, 5, 6, 7, 8, 5, 6, 7]
    assert after([5, 5], 3) == [5, 5, 5]


def test_nothing_is_guessed_where_nothing_repeats():
    assert after([]) == after([5]) == after([5, 6, 7]) == []
    assert after([5, 5, 5], 0) == []


def test_nothing_is_copied_across_the_end_of_a_sentence():
    assert after([5, 6, 7, 2, 9, 5, 6], end=2) == [7]
    assert after([5, 6, 2, 9, 5, 6], end=2) == []


def test_texts_of_a_batch_get_equally_many_guesses():
    lookups = make_lookups(GenerationConfig(prompt_lookup_num_tokens=3), [[5, 6, 7, 5], [8, 9], [5, 5]])
    assert copied_guesses(lookups, [True, True, False], 3, fill=1) == [[6, 7, 5], [1, 1, 1], [1, 1, 1]]


def test_lookups_are_made_where_the_configuration_says_so():
    assert make_lookups(GenerationConfig(), [[5, 6]]) == []
    lookup = make_lookups(GenerationConfig(prompt_lookup_num_tokens=3, max_matching_ngram_size=4), [[5, 6]])[0]
    assert (lookup.longest_match, lookup.ids) == (4, [5, 6])


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": value} for value in (0, True, "3", 2.5)])
def test_wrong_lengths_are_refused(options):
    with pytest.raises(ValueError, match="a whole number from 1 to 256"):
        make_mtp().generate(torch.tensor([PROMPT]), **options)


@pytest.mark.parametrize("options", [{"num_draft": 2}, {"tree": [[0]]}])
def test_copies_and_heads_are_not_mixed(options):
    with pytest.raises(ValueError, match="give one of the two"):
        make_mtp().generate(torch.tensor([PROMPT]), prompt_lookup_num_tokens=2, **options)


@pytest.mark.parametrize("head_kind", ["parallel", "anticausal"])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 0.5, "seed": 3}])
@pytest.mark.parametrize("num_draft", [1, "auto"])
def test_copying_changes_no_text(head_kind, sampling, num_draft):
    model = make_mtp(head_kind=head_kind, opt=dict(max_position_embeddings=64)).double()
    ids = torch.tensor([PROMPT, [2, 9, 9, 9, 9, 9, 9]])
    options = dict(max_new_tokens=40, min_new_tokens=30) | sampling
    plain = model.generate(ids, num_draft=1, **options)
    copied = model.generate(ids, num_draft=num_draft, prompt_lookup_num_tokens=4, **options)
    assert torch.equal(plain.sequences, copied.sequences)
    assert copied.finish_reason == plain.finish_reason
    assert len(copied.statistics.accepted) > 0


def test_a_text_that_repeats_itself_takes_fewer_passes():
    model = make_mtp(opt=dict(max_position_embeddings=64)).double()
    ids = torch.tensor([[2, 9, 9, 9]])
    repeated = lambda _, scores: torch.full_like(scores, -1).index_fill(1, torch.tensor([9]), 1.0)  # noqa: E731
    options = dict(logits_processor=LogitsProcessorList([repeated]), max_new_tokens=30, num_draft=1)
    output = model.generate(ids, prompt_lookup_num_tokens=4, **options)
    assert output.sequences[0, 1:].tolist() == [9] * 33
    assert output.statistics.tokens_per_forward > 4
