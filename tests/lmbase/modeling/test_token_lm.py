"""OPT as trunk and as baseline: `</s> x1 .. xL </s>`, every token scored once."""

from itertools import product

import pytest
import torch
from tiny import make_opt, make_processor

from lmbase.modeling.token_lm import TokenLM, score_tokens
from lmbase.text.tokenizers import encode_text, load_tokenizer

TEXTS = ["He left.", "", "Then, much later, she came back to the house by the sea."]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("bytes")


def naive_nats(opt, ids):
    """Through the public model: logits of `</s> x1 .. xL`, targets `x1 .. xL </s>`."""
    inputs = torch.tensor([[2, *ids]])
    log_probs = opt(inputs).logits[0].log_softmax(-1)
    return -log_probs.gather(1, torch.tensor([*ids, 2])[:, None])[:, 0]


@torch.no_grad()
def test_scores_are_those_of_the_plain_model(tokenizer):
    opt = make_opt(max_position_embeddings=64)
    results = score_tokens(TokenLM(opt), tokenizer, TEXTS, batch_size=2)
    for text, result in zip(TEXTS, results, strict=True):
        expected = naive_nats(opt, encode_text(tokenizer, text))
        assert result.token == pytest.approx(expected.tolist(), rel=1e-4)
        assert result.nats == pytest.approx(expected.sum().item(), rel=1e-4)
        assert (result.num_tokens, result.num_bytes, result.stop) == (len(text), len(text.encode()), [])


@torch.no_grad()
def test_windows_give_each_token_at_least_half_a_window_of_text(tokenizer):
    """Window 10: the first ten tokens as in one long window; later ones as in the window that scores them."""
    opt = make_opt(max_position_embeddings=64)
    ids = encode_text(tokenizer, TEXTS[2])
    whole, cut = (score_tokens(TokenLM(opt), tokenizer, TEXTS[2:], window=size)[0].token for size in (63, 10))
    assert cut[:10] == pytest.approx(whole[:10], rel=1e-4)
    assert cut[10:15] == pytest.approx(naive_nats(opt, ids[5:15])[5:10].tolist(), rel=1e-4)
    assert cut[-1] != pytest.approx(whole[-1], rel=1e-3)  # it really saw less
    assert len(cut) == len(whole) == len(ids) + 1


def test_training_loss_is_the_sum_of_nats(opt, tokenizer):
    model = TokenLM(opt)
    ids = torch.tensor([[10, 11, 12], [13, 14, 1]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    for ends in (torch.tensor([True, False]), torch.tensor([False, True])):
        batch = dict(input_ids=ids, attention_mask=mask, ends=ends)
        output = model(**batch)
        nats = model.nats(**batch)
        torch.testing.assert_close(output.losses["token"], nats.sum())
        assert model.loss_counts(**batch)["token"] == (nats > 0).sum() == 6
        torch.testing.assert_close(output.loss, nats.sum() / 6)


@torch.no_grad()
def test_padding_changes_nothing(opt):
    model = TokenLM(opt)
    alone = model.nats(torch.tensor([[13, 14]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([True]))
    ids = torch.tensor([[10, 11, 12, 15], [13, 14, 1, 1]])
    batch = model.nats(ids, ids != 1, torch.tensor([False, True]))
    torch.testing.assert_close(batch[1, :3], alone[0])
    assert batch[1, 3:].sum() == 0


@torch.no_grad()
def test_targets_before_the_first_are_context(opt):
    model = TokenLM(opt)
    batch = dict(input_ids=torch.tensor([[10, 11, 12], [13, 14, 15]]), attention_mask=torch.ones(2, 3).bool())
    every = model.nats(**batch, ends=torch.tensor([True, False]))
    some = model.nats(**batch, ends=torch.tensor([True, False]), first=torch.tensor([2, 0]))
    expected = every.clone()
    expected[0, :2] = 0
    torch.testing.assert_close(some, expected)


@torch.no_grad()
def test_probabilities_of_all_continuations_sum_to_1():
    """All texts of 0 or 1 tokens, and all openings of two tokens, under a vocabulary of 8."""
    model = TokenLM(make_opt(vocab_size=8))
    tokens = [i for i in range(8) if i != 2]
    total = 0.0
    for length, closed in ((0, True), (1, True), (2, False)):
        rows = torch.tensor(list(product(tokens, repeat=length)), dtype=torch.long)
        nats = model.nats(rows, torch.ones_like(rows, dtype=torch.bool), torch.full((len(rows),), closed))
        total += torch.exp(-nats.double().sum(1)).sum().item()
    assert total == pytest.approx(1, abs=1e-5)


def test_special_tokens_in_a_text_are_text(opt, tokenizer):
    (result,) = score_tokens(TokenLM(opt), tokenizer, ["a</s><pad>"])
    assert result.num_tokens == 10


@pytest.mark.parametrize(
    ("text", "window", "message"), [("a \ud800", None, "at character 2"), ("a", 32, "at most 31 tokens")]
)
def test_impossible_texts_and_windows_are_refused(opt, tokenizer, text, window, message):
    with pytest.raises(ValueError, match=message):
        score_tokens(TokenLM(opt), tokenizer, [text], window=window)


def test_the_tokenizers_end_mark_is_the_models(tokenizer):
    assert make_processor().eos_token_id == make_opt().config.eos_token_id == tokenizer.eos_token_id


def test_B7_context_and_text_add_up_to_the_whole_or_the_border_is_refused():
    """Tokenised as one text: what is before the border costs the same in each whole."""
    tokenizer = load_tokenizer("bpe:300", lambda: iter(["the cat sat on the mat"] * 9))
    model, whole, refused = (
        TokenLM(make_opt(vocab_size=len(tokenizer), max_position_embeddings=64)).eval(),
        "the cat",
        0,
    )
    (together,) = score_tokens(model, tokenizer, whole)
    ids = encode_text(tokenizer, whole)
    assert len(ids) < len(whole)
    for cut in range(len(whole) + 1):
        try:
            (rest,) = score_tokens(model, tokenizer, whole[cut:], contexts=whole[:cut])
        except ValueError as error:
            assert "move the border to the front of that token" in str(error)  # noqa: PT017
            refused += 1
            continue
        before = len(ids) - rest.num_tokens
        assert rest.nats + sum(together.token[:before]) == pytest.approx(together.nats, rel=1e-4)
    assert 0 < refused < len(whole)
