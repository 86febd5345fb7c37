"""The loop of drafts and passes: where texts end, what processors see, what is counted."""

import itertools

import pytest
import torch
from learned import PROMPTS, TREE, new_ids, padded, trained_heads
from transformers import LogitsProcessor, LogitsProcessorList

from multitoken import draft_loop
from multitoken.draft_length import DraftLength
from multitoken.heads import HEAD_KINDS


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_a_text_goes_on_alone_for_long_after_the_others(kind, tree):
    """Long texts that end early, in the middle of a draft, beside a short one that goes on plainly and then drafts."""
    model = trained_heads(kind, steps=20)
    prompts = [[2, 11], [2, *range(10, 38)], [2, *range(20, 36)]]

    class Ends(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, 2] = 1e9 if input_ids[0, 1] == 10 and input_ids.shape[1] > 31 else -1e9
            return scores

    options = dict(max_new_tokens=40, logits_processor=LogitsProcessorList([Ends()]))
    plain = model.generate(padded(prompts), num_draft=1, **options)
    for length in [2, 2, 2] + [0] * 28 + [2], [2], [0, 0, 2, 1]:
        lengths = itertools.cycle(length)

        class Fixed(DraftLength):
            def choose(self):
                return next(lengths)  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(draft_loop, "DraftLength", Fixed)
            found = model.generate(padded(prompts), num_draft="auto", tree=tree, **options)
        assert torch.equal(found.sequences, plain.sequences)


class Forbid(LogitsProcessor):
    """No token may be the one before it plus one: depends on what was written before."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[torch.arange(len(scores)), (input_ids[:, -1] + 1) % scores.shape[1]] = -torch.inf
        return scores


@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_logits_processors_see_the_ids_before_each_token(counter, tree):
    options = dict(max_new_tokens=16, logits_processor=LogitsProcessorList([Forbid()]))
    plain, _ = new_ids(counter, PROMPTS[0], num_draft=1, **options)
    found, _ = new_ids(counter, PROMPTS[0], num_draft=3, tree=tree, **options)
    assert found == plain
    assert all(b != (a + 1) % 64 for a, b in zip([12, *plain], plain, strict=False))


@pytest.mark.parametrize("num_draft", [1, 2, 3, "auto"])
@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_never_more_tokens_than_asked_for(counter, limit, num_draft):
    full, _ = new_ids(counter, PROMPTS[0], max_new_tokens=12, min_new_tokens=12, num_draft=1)
    found, output = new_ids(counter, PROMPTS[0], max_new_tokens=limit, min_new_tokens=12, num_draft=num_draft)
    assert found == full[:limit]
    assert output.finish_reason == ["length"]
    assert output.num_new_tokens == [limit]


@pytest.mark.parametrize("num_draft", [1, 3, "auto"])
@pytest.mark.parametrize("length", [45, 46, 47, 48])
def test_texts_end_where_positions_do(counter, length, num_draft):
    prompt = [2, *(4 + i % 60 for i in range(length - 1))]
    found, output = new_ids(counter, prompt, max_new_tokens=20, min_new_tokens=20, num_draft=num_draft)
    assert len(found) == 48 - length + 1  # the token after the last position is still predicted
    assert output.finish_reason == ["context"]


def test_an_end_mark_inside_an_accepted_draft_ends_the_text(counter):
    """A text that ends in the middle of a draft, by construction: the end mark is made the likeliest after 20."""

    class End(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            if input_ids[0, -1] == 20:
                scores[:, 2] = 1e9
            return scores

    options = dict(max_new_tokens=30, logits_processor=LogitsProcessorList([End()]))
    for start in range(8, 20):
        plain, alone = new_ids(counter, [2, start, start + 1], num_draft=1, **options)
        found, output = new_ids(counter, [2, start, start + 1], num_draft=3, **options)
        assert found == plain
        assert output.finish_reason == alone.finish_reason


def test_statistics_add_up(counter):
    output = counter.generate(padded(PROMPTS), max_new_tokens=20, num_draft=3)
    stats_ = output.statistics
    # the pass over the prompts brings each text's first token
    first = sum(n > 0 for n in output.num_new_tokens)
    assert stats_.num_tokens == sum(output.num_new_tokens) - first
    assert 1 <= stats_.tokens_per_forward <= 3
    assert len(stats_.acceptance) == 2
    assert output.cache_bytes > 0


def test_auto_measures_its_break_even(counter):
    _, output = new_ids(counter, PROMPTS[0], max_new_tokens=40, min_new_tokens=40)
    assert output.statistics.break_even > 0
