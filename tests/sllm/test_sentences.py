"""Sentences on their way: which of them stand in which window."""

import pytest
import torch
from tiny import make_sllm, pad

from sllm.sentences import place_in_windows

TEXTS = [[[10], [11, 12], [13]], [], [[20, 21], [22]]]


def placed(windows):
    batch = pad(TEXTS)
    sentences = make_sllm().read(**batch)
    return sentences, *place_in_windows(sentences, batch["sentence_mask"], torch.tensor(windows))


@torch.no_grad()
def test_windows_overlap_and_each_counts_its_sentences_from_0():
    before, sentences, mask = placed([[0, 0, 2], [0, 1, 3], [2, 0, 2], [2, 1, 2]])
    assert mask.tolist() == [[True, True]] * 3 + [[True, False]]
    assert sentences.rows.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert sentences.places.tolist() == [0, 1, 0, 1, 0, 1, 0]
    ids = [sentences.ids[n][sentences.mask[n]].tolist() for n in sentences.numbers]
    assert ids == [[10], [11, 12], [11, 12], [13], [20, 21], [22], [22]]
    assert sentences.embeds is before.embeds, "no sentence is encoded twice"


@torch.no_grad()
def test_an_empty_window_holds_nothing():
    """Of an empty text, or of a text from whose beginning something is scored."""
    _, sentences, mask = placed([[1, 0, 0], [0, 0, 3], [2, 2, 2]])
    assert mask.sum(1).tolist() == [0, 3, 0]
    assert sentences.rows.tolist() == [1, 1, 1]
    _, sentences, mask = placed([[1, 0, 0]])
    assert mask.tolist() == [[False]]
    assert len(sentences.numbers) == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (dict(sentence_mask=torch.ones(3, 1)), r"sentence_mask \(3, 1\): give"),
        (dict(attention_mask=None), "give \\(B, S, T\\) ids and attention_mask"),
        (dict(sentence_mask=torch.ones(3, 3)), "Sentence 0 of text 1 has no tokens, and sentence_mask counts it"),
        (dict(continues=torch.ones(1)), r"continues is of shape \(1,\).*one for each of the 3 rows"),
    ],
    ids=str,
)
def test_masks_that_are_not_those_of_the_sentences_are_refused(given, told):
    """Sentences that a mask did not reach were passed over, and one without tokens had an infinite loss."""
    with pytest.raises(ValueError, match=told):
        make_sllm()(**pad(TEXTS) | given)


@torch.no_grad()
def test_texts_that_go_on_may_be_numbers():
    model = make_sllm()
    found = model(**pad(TEXTS), continues=torch.tensor([1, 0, 0]))
    torch.testing.assert_close(found.loss, model(**pad(TEXTS), continues=torch.tensor([True, False, False])).loss)
