"""What the decoder reads beside a sentence's vector."""

from dataclasses import replace

import torch
from tiny import MEMORY, make_sllm, pad

from sllm.decoder_memory import latest, memories_of_sentences, memory_of_all


def test_latest_counts_down():
    assert latest(3, torch.device("cpu")).tolist() == [3, 2, 1]


def test_a_sentence_sees_states_and_tokens_before_it_only():
    model = make_sllm(**MEMORY)  # 3 states, 5 tokens
    batch = pad([[[10, 11], [12], [13, 14, 15]], [[16]]])
    sentences = model.read(**batch)
    states = model.trunk_states(sentences, batch["sentence_mask"])
    layers = model.autoencoder.decoder.layers
    memory = memory_of_all(model, layers, sentences, states)
    found = memories_of_sentences(model, sentences, states, torch.arange(4), memory)
    assert found is not None
    assert found[0] is not None
    assert found[0].mask.int().tolist() == [
        [0, 0, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 1, 1],
        [1, 1, 1, 0, 0, 1, 1, 1],
        [0, 0, 1, 0, 0, 0, 0, 0],
    ]
    closed = replace(sentences, closed=torch.tensor([True, False]))
    found = memories_of_sentences(model, closed, states, torch.arange(4), memory)
    assert found is not None
    assert found[0] is not None
    assert found[0].mask[:, :3].int().tolist() == [[0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]]
    assert not found[0].mask[:, 3:].any()
