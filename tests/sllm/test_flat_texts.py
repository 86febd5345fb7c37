"""Flat rows of ids mean the sentences of their text."""

import pytest
import torch
from tiny import make_processor, make_sllm, read

TEXTS = ["One, two and three. Four? Yes, five: six.", "Why", ""]


@pytest.fixture(scope="module")
def model():
    return make_sllm(vae=dict(max_sentence_tokens=40))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("opening", ["</s>", ""])
def test_flat_rows_are_the_sentences_of_their_text(model, side, opening):
    tokenizer = make_processor().tokenizer
    tokenizer.padding_side = side
    rows = tokenizer([f"{opening or text[:0]}{text}</s>" for text in TEXTS[:2]], padding=True, return_tensors="pt")
    found, expected = model(**rows), model(**read(model, TEXTS[:2]))
    torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=0)


@torch.no_grad()
def test_an_empty_text_has_an_end(model):
    found = model(torch.tensor([[2, 2]]), torch.ones(1, 2))
    torch.testing.assert_close(found.loss, model(**read(model, [""])).loss)


@torch.no_grad()
def test_a_text_without_its_end_goes_on(model):
    batch = read(model, ["One. Two."])
    rows = model.processor.tokenizer(["One. Two."], return_tensors="pt")
    expected = model(**batch, continues=torch.tensor([True]))
    torch.testing.assert_close(model(rows["input_ids"]).loss, expected.loss)


def test_mistakes_are_told(model):
    many = model.processor.tokenizer([f"</s>{'Yes, no. ' * 20}</s>"], return_tensors="pt")
    with pytest.raises(ValueError, match=r"A text of \d+ sentences, and the model reads 16"):
        model(**many)
    with pytest.raises(ValueError, match="special tokens"):
        model(torch.tensor([[10, 2, 11]]))
    with pytest.raises(ValueError, match="without a sentence_mask"):
        model(torch.tensor([[[10]]]), torch.ones(1, 1, 1))
    with pytest.raises(ValueError, match="no processor"):
        make_sllm(vae=dict(processor=False))(torch.tensor([[10]]))


def test_whether_flat_ids_go_on_is_not_said_twice(model):
    """It was passed over: the ids themselves say it."""
    with pytest.raises(ValueError, match="continues is for"):
        model(torch.tensor([[20, 30]]), continues=torch.tensor([True]))
