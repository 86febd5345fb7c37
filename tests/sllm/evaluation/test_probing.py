"""Controls: a model that uses its trunk is told from one that does not."""

from dataclasses import replace

import pytest
import torch
from tiny import MEMORY, make_own, make_sllm, pad

from sllm.evaluation.probing import controls, donors_of, probe

DOCUMENTS = [[[10 + k, 40 - k, 50 + k] for k in range(7)], [[60 + k, 90 - k] for k in range(9)], [[100], [101]]]
SIZES = [100, 80, 10]


@pytest.mark.parametrize("make", [make_sllm, make_own])
def test_states_matter_or_not(make):
    model = make(max_sentences=8)
    found = probe(model, DOCUMENTS, SIZES)["bits_per_byte"]
    assert {"as_it_is", "zero", "shuffled", "another_document"} <= set(found)
    assert len({round(value, 6) for value in found.values()}) == len(found)
    with torch.no_grad():
        whole = model.nats(**pad([DOCUMENTS[0][:7], DOCUMENTS[1][:8]])).token.sum()
        rest = model.nats(**pad([DOCUMENTS[1][8:], DOCUMENTS[2]])).token.sum()
    assert found["as_it_is"] == pytest.approx(float((whole + rest) / torch.tensor(2.0).log() / sum(SIZES)), rel=1e-5)


def test_a_decoder_that_ignores_the_trunk_is_found_out():
    model = make_sllm(max_sentences=8)
    with torch.no_grad():
        model.sentence_out.weight.zero_()
    found = probe(model, DOCUMENTS, SIZES)["bits_per_byte"]
    assert len(set(found.values())) == 1


def test_shuffled_states_are_all_there():
    states = torch.arange(12.0).view(2, 3, 2)
    changed = controls(torch.tensor([3, 2]), [])["shuffled"](states)
    real = torch.tensor([[True, True, True], [True, True, False]])
    assert sorted(map(tuple, changed[real].tolist())) == sorted(map(tuple, states[real].tolist()))
    assert torch.equal(changed[~real], states[~real])


def test_another_document_is_another():
    """One long document and two short ones: also its last windows, which are alone, get states of another."""
    states = [torch.full((2, 1), float(number)) for number in range(3)]
    kept: dict[int, torch.Tensor] = {}
    for numbers in ([0, 1, 2, 0], [0, 0, 0], [1, 0]):
        found = donors_of(numbers, [states[number] for number in numbers], kept)
        assert [int(donor[0]) != number for donor, number in zip(found, numbers, strict=True)] == [True] * len(numbers)
    assert donors_of([5, 5], [states[0]] * 2, {}) == []
    changed = controls(torch.tensor([4, 2]), [states[1], states[2]])["another_document"](torch.zeros(2, 4, 1))
    assert changed[..., 0].tolist() == [[0, 1, 1, 1], [0, 2, 2, 2]]
    alone = probe(make_sllm(max_sentences=4), DOCUMENTS[:1], SIZES[:1])["bits_per_byte"]
    assert "another_document" not in alone
    assert "shuffled" in alone


def test_a_closed_window_ends_where_the_sentence_begins():
    model = make_own()
    changed, batch = pad([[[30, 31], [12], [13, 14, 15]]]), pad([[[10, 11], [12], [13, 14, 15]]])
    with torch.no_grad():
        sentences, others = model.read(**batch), model.read(**changed)
        states = model.trunk_states(sentences, batch["sentence_mask"])
        # With the same states, and lower ones that differ in the first sentence only, the third reads the same.
        lower = sentences.states.clone()
        lower[:, 1:3] = others.states[:, 1:3]
        others.states[:] = lower
        closed = torch.tensor([True])
        (one,), (other,) = (model.decode(replace(each, closed=closed), states) for each in (sentences, others))
        (opened,) = model.decode(replace(others, closed=~closed), states)
    assert torch.allclose(one.hidden[2], other.hidden[2], atol=1e-6)
    assert not torch.allclose(opened.hidden[2], other.hidden[2], atol=1e-4)
    assert not torch.allclose(one.hidden[1], other.hidden[1], atol=1e-4) or not torch.allclose(
        one.hidden[0], other.hidden[0], atol=1e-4
    )


def test_the_memory_of_the_published_design_is_closed_too():
    model = make_sllm(max_sentences=8, **MEMORY)
    found = probe(model, DOCUMENTS, SIZES)["bits_per_byte"]
    assert found["closed_window"] != pytest.approx(found["as_it_is"], rel=1e-5)
    with torch.no_grad():
        for layer in model.autoencoder.decoder.layers:
            layer.memory_attention.out_proj.weight.zero_()
    found = probe(model, DOCUMENTS, SIZES)["bits_per_byte"]
    assert found["closed_window"] == pytest.approx(found["as_it_is"], rel=1e-6)


def test_one_window_is_too_little():
    with pytest.raises(ValueError, match="One window of text only"):
        probe(make_sllm(), [[[10, 11]]], [2])
