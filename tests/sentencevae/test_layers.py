"""Layers of the autoencoder: what attention reads, what tables begin with."""

import pytest
import torch
from tiny import WIDTH

from sentencevae import SentenceVAEConfig
from sentencevae.layers import DecoderLayer, LayerMemory, MemoryAttention, PositionGates, init_layer

MEMORY = 3


@pytest.fixture
def config():
    return SentenceVAEConfig(vocab_size=20, hidden_size=WIDTH, num_attention_heads=2, memory_size=MEMORY)


def started(module):
    torch.manual_seed(0)
    for part in module.modules():
        init_layer(part, std=0.3)
    return module


def test_gates_of_a_longer_table_open_with_those_of_a_shorter_one():
    """Encoder and decoder have tables of different length, and must begin with the same signs."""
    short, long = (started(PositionGates(n, WIDTH)).weight for n in (4, 7))
    assert torch.equal(long[:4], short)
    assert set(long.flatten().tolist()) == {-1.0, 1.0}
    x = torch.randn(2, 3, WIDTH)
    read = started(PositionGates(7, WIDTH))(x, torch.tensor([[0, 1, 2], [4, 5, 6]]))
    assert torch.equal(read[1], x[1] * long[4:])


@torch.no_grad()
def test_a_masked_memory_is_not_read_and_each_place_has_its_worth(config):
    attention = started(MemoryAttention(config, MEMORY))
    x, vectors = torch.randn(1, 2, WIDTH), torch.randn(1, MEMORY, WIDTH)

    def read(vectors, mask):
        return attention.read(x, LayerMemory(attention.keys_values(vectors), torch.tensor([mask])))

    other = vectors.clone()
    other[0, 2] += 5
    assert torch.equal(read(vectors, [True, True, False]), read(other, [True, True, False]))
    assert not torch.allclose(read(vectors, [True] * 3), read(other, [True] * 3))
    attention.place_bias[:, 0] = 50.0
    torch.testing.assert_close(read(vectors, [True] * 3), read(vectors, [True, False, False]))


@torch.no_grad()
def test_a_memory_of_some_sentences_is_theirs(config):
    layers = [started(DecoderLayer(config, i)).eval() for i in range(2)]
    x, read, vectors = torch.randn(3, 2, WIDTH), torch.randn(3, 1, WIDTH), torch.randn(3, MEMORY, WIDTH)
    memories = [layer.remember(vectors, torch.ones(3, MEMORY).bool()) for layer in layers]
    chosen = torch.tensor([2, 0])
    for layer, memory in zip(layers, memories, strict=True):
        every, some = layer(x, read, memory), layer(x[chosen], read[chosen], memory.select(chosen))
        torch.testing.assert_close(some, every[chosen])
        assert not torch.allclose(every, layer(x, read, None))
