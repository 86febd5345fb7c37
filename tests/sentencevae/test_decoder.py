"""The sentence decoder: targets cut by one index, exact likelihood, steps that equal all positions at once."""

from itertools import pairwise, product

import pytest
import torch
from tiny import WIDTH, make_sentences, make_vae

from lmbase.text.padding import pad_tokens
from sentencevae import SentenceVAEConfig
from sentencevae.decoder import sentence_targets

EOS, PAD = 2, 1


def all_sentences(vocabulary: int, cap: int) -> list[list[int]]:
    tokens = [i for i in range(vocabulary) if i != EOS]
    return [list(ids) for length in range(1, cap + 1) for ids in product(tokens, repeat=length)]


def test_targets_masks_and_end_marks_are_cut_by_one_index():
    """Inputs, targets and mask of a row have its own sentence's length; a full one has no end mark to predict."""
    config = SentenceVAEConfig(max_sentence_tokens=3)
    ids, mask = pad_tokens([[5], [6, 7], [8, 9, 10]], PAD)
    cut = sentence_targets(ids, mask, config)
    assert cut.inputs.tolist() == [[EOS, 5, PAD, PAD], [EOS, 6, 7, PAD], [EOS, 8, 9, 10]]
    predicted = [row[m].tolist() for row, m in zip(cut.targets, cut.mask, strict=True)]
    assert predicted == [[5, EOS], [6, 7, EOS], [8, 9, 10]]
    assert cut.first.tolist() == [[True, False, False, False]] * 3


@torch.no_grad()
def test_probabilities_of_all_sentences_sum_to_1():
    """Four ordinary tokens beside OPT's special ones, sentences of 1 to 3 tokens, any vector."""
    vae = make_vae(vocab_size=8, max_sentence_tokens=3, processor=False)
    ids, mask = pad_tokens(all_sentences(8, 3), PAD)
    cut = sentence_targets(ids, mask, vae.config)
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)).expand(len(ids), -1)
    hidden = vae.decoder(vae.embed_tokens(cut.inputs), vector)
    logits = (hidden @ vae.embed_tokens.weight.T).double()
    logits[:, 0, EOS] = -torch.inf
    nats = -logits.log_softmax(-1).gather(-1, cut.targets[..., None])[..., 0].masked_fill(~cut.mask, 0)
    assert torch.exp(-nats.sum(1)).sum().item() == pytest.approx(1, abs=1e-5)
    assert vae.loss_counts(ids, mask)["token"] == cut.mask.sum()


@torch.no_grad()
def test_steps_with_a_cache_equal_all_positions_at_once(variant):
    ids, mask = make_sentences(5)
    inputs = variant.embed_tokens(sentence_targets(ids, mask, variant.config).inputs)
    vectors = variant.encode(ids, mask)
    expected = variant.decoder(inputs, vectors)
    state = variant.decoder.start(vectors)
    borders = [0, 1, 4, 5, inputs.shape[1]]  # one position at a time and several
    steps = [variant.decoder.step(inputs[:, a:b], state) for a, b in pairwise(borders)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_decoder_is_causal(variant):
    """Another token at position 3 leaves the states that predict tokens 0 to 3 bit-equal."""
    ids, mask = pad_tokens([list(range(10, 18))], PAD)
    vector = variant.encode(ids, mask)
    changed = ids.clone()
    changed[0, 3] = 99
    first, second = (variant.decoder(variant.embed_tokens(x), vector) for x in (ids, changed))
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.equal(first[:, 3:], second[:, 3:])
