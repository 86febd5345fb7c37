"""Sentences drafted by copying out of the text so far."""

import pytest
import torch
from tiny import CAP, MEMORY, make_sllm
from transformers import LogitsProcessorList

from lmbase.text.padding import pad_sentences

PROMPTS = [[[10, 11, 12], [10, 11]], [[30, 31, 30, 33]], []]


def prompts(*which):
    return pad_sentences([PROMPTS[i] for i in which], 1).input_ids


@pytest.fixture(scope="module", params=[{}, MEMORY, dict(num_future_tokens=3)], ids=["plain", "memory", "heads"])
def model(request):
    return make_sllm(stop_bias=-4.0, **request.param).double()


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 0.5, "seed": 3}])
@pytest.mark.parametrize("num_draft", [1, "auto"])
@pytest.mark.parametrize("num_copied", [1, 3 * CAP])
def test_copying_changes_no_text(model, sampling, num_draft, num_copied):
    options: dict = dict(max_new_tokens=40, min_new_tokens=30, overflow="slide") | sampling
    plain = model.generate(prompts(0, 1, 2), num_draft=1, **options)
    copied = model.generate(prompts(0, 1, 2), num_draft=num_draft, prompt_lookup_num_tokens=num_copied, **options)
    assert torch.equal(plain.sequences, copied.sequences)
    assert plain.sentence_lengths == copied.sentence_lengths
    assert len(copied.statistics.accepted) > 0


def test_a_text_that_repeats_itself_takes_fewer_passes():
    """A model that writes one token over and over."""
    model = make_sllm(stop_bias=-9.0).double()
    always = lambda _, scores: torch.full_like(scores, -1).index_fill(1, torch.tensor([40]), 1.0)  # noqa: E731
    options = dict(logits_processor=LogitsProcessorList([always]), max_new_tokens=3 * CAP, num_draft=1)
    assert model.generate(prompts(0), **options).statistics.tokens_per_forward == 1
    output = model.generate(prompts(0), prompt_lookup_num_tokens=4, **options)
    assert output.sequences[0, 5:].tolist() == [40] * 3 * CAP
    assert output.statistics.tokens_per_forward > 2.5


def test_an_unfinished_sentence_of_a_prompt_is_copied_from():
    model = make_sllm(stop_bias=-9.0).double()
    options: dict = dict(text="one two, one two, one t", max_new_tokens=40, min_new_tokens=40, num_draft=1)
    plain = model.generate(**options)
    copied = model.generate(prompt_lookup_num_tokens=3, **options)
    assert plain.texts == copied.texts
    assert sum(copied.statistics.offered) > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens=0"),
        ({"prompt_lookup_num_tokens": "3"}, "prompt_lookup_num_tokens='3'"),
        ({"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 0}, "max_matching_ngram_size=0"),
        ({"prompt_lookup_num_tokens": 3, "num_draft": 2}, "one of the two"),
        ({"prompt_lookup_num_tokens": 3, "tree": [[0]]}, "one of the two"),
    ],
)
def test_mistakes_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        make_sllm(num_future_tokens=3).generate(prompts(0), **options)
