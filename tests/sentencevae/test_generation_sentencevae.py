"""Vectors of texts, and sentences written from vectors, free-running."""

import pytest
import torch
from tiny import CAP, WIDTH, make_sentences, make_vae

from lmbase.text.padding import pad_tokens

EOS, PAD = 2, 1
TEXTS = ["He left, and then she left.", "", "A rather long clause without a mark", "</s><pad> 你好。"]


@torch.no_grad()
def test_free_running_decoding_equals_recomputing_from_scratch(variant):
    ids, mask = make_sentences(8)
    vectors = variant.encode(ids, mask)
    written = variant.decode(vectors)
    for vector, row in zip(vectors, written, strict=True):
        again: list[int] = []
        while len(again) < CAP:
            hidden = variant.decoder(variant.embed_tokens(torch.tensor([[EOS, *again]])), vector[None])[0, -1]
            logits = hidden @ variant.embed_tokens.weight.T
            if not again:
                logits[EOS] = -torch.inf
            if (token := int(logits.argmax())) == EOS:
                break
            again.append(token)
        assert row == again
    assert {len(row) for row in written} - {CAP}, "some end before the cap"


@torch.no_grad()
@pytest.mark.parametrize("wish", [1.0, -1.0])
def test_a_written_sentence_is_never_empty_and_never_too_long(wish):
    """A decoder that wants nothing but end marks writes one token, one that wants none the cap."""
    vae = make_vae()
    vae.decoder.norm.weight.zero_()
    vae.decoder.norm.bias.fill_(1.0)
    vae.embed_tokens.weight[EOS] = wish * 10
    assert [len(row) for row in vae.decode(torch.randn(3, WIDTH))] == [1 if wish > 0 else CAP] * 3


def test_reconstruct_does_not_depend_on_the_batch(variant):
    together = variant.reconstruct(TEXTS)
    assert together == variant.reconstruct(TEXTS, batch_size=1) == [variant.reconstruct([t])[0] for t in TEXTS]
    assert together[1] == ""


def test_reconstruct_writes_each_sentence_from_its_vector(vae):
    sentences = vae.processor.encode(TEXTS[0]).sentences()
    assert len(sentences) > 1
    written = [vae.decode(vae.encode(*pad_tokens([ids], PAD)))[0] for ids in sentences]
    assert vae.reconstruct(TEXTS[:1]) == [vae.processor.decode([i for ids in written for i in ids])]


def test_encode_text_reads_each_text_as_one_sentence(vae):
    vectors = vae.encode_text(["He left.", "You, too!"])
    rows = [vae.processor.encode(text).input_ids for text in ("He left.", "You, too!")]
    expected = vae.encode(*pad_tokens(rows, PAD))
    torch.testing.assert_close(vectors, expected)
    assert vae.encode_text([]).shape == (0, WIDTH)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has 0 tokens"), ("thirteen char", "has 13 tokens"), ("a\ud800", "at character 1")],
)
def test_encode_text_refuses_what_is_no_sentence(vae, text, message):
    with pytest.raises(ValueError, match=message):
        vae.encode_text([text])


def test_interpolation_begins_and_ends_with_the_reconstructions(variant):
    a, b = "He left.", "You, too!"
    written = variant.interpolate(a, b, steps=4)
    assert len(written) == 4
    ends = variant.decode(variant.encode_text([a, b]))
    assert [written[0], written[-1]] == [variant.processor.decode(ids) for ids in ends]
    for steps in (1, 2.5):
        with pytest.raises(ValueError, match=f"steps={steps}: give a whole number of 2 or more"):
            variant.interpolate(a, b, steps=steps)


def test_samples_repeat_with_a_seed():
    vae = make_vae(latent="gaussian")
    first, again, other = (vae.sample(5, seed=seed) for seed in (0, 0, 1))
    assert vae.sample(2, seed=0) == first[:2]  # D2: a draw depends on the seed and its number only
    assert len(first) == 5
    assert first == again != other
    with pytest.raises(ValueError, match="gaussian"):
        make_vae().sample()


def test_vectors_of_another_shape_are_refused_and_of_other_types_taken(vae):
    vectors = vae.encode_text(["One.", "Two"])
    written = vae.decode(vectors)
    assert vae.decode(vectors.cpu().numpy()) == vae.decode(vectors.double()) == written
    for wrong in (vectors[0], vectors[:, 1:], vectors[None]):
        with pytest.raises(ValueError, match=r"shape \(N, \d+\) for this model"):
            vae.decode(wrong)


def test_no_vectors_are_no_sentences():
    vae = make_vae(latent="gaussian")
    assert vae.decode(torch.zeros(0, WIDTH)) == vae.sample(0) == vae.reconstruct([]) == []
    assert vae.encode_text([]).shape == (0, WIDTH)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_without_numbers_are_refused(vae, value):
    """They were written as tokens of id 0."""
    with pytest.raises(ValueError, match="hold NaN or infinite numbers"):
        vae.decode(torch.full((1, WIDTH), value))


def test_a_text_is_no_vector(vae):
    with pytest.raises(ValueError, match="'He left' is a text: reconstruct"):
        vae.decode("He left")


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_sentences_come_in_batches_of_some(vae, size):
    """Fewer than none gave sentences without a token."""
    with pytest.raises(ValueError, match="batch_size="):
        vae.reconstruct(["He left"], batch_size=size)


@pytest.mark.parametrize("name", ["encode", "encode_states"])
def test_ids_that_are_none_are_told(vae, name):
    with pytest.raises(ValueError, match="input_ids holds 300"):
        getattr(vae, name)(torch.tensor([[300]]), torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"attention_mask \(1, 1\) and input_ids \(1, 2\) differ"):
        getattr(vae, name)(torch.tensor([[30, 40]]), torch.ones(1, 1))
