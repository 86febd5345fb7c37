"""What the decoder reads of a trunk state in place of an encoder's vector."""

import pytest
import torch
from tiny import CAP, WIDTH, make_opt, make_sllm, make_vae, pad

from sllm import SLLM
from sllm.next_vector import NEXT_VECTORS
from sllm.vector_heads import FlowHead, VectorHead

DOCUMENT = [[10 + 7 * k + i for i in range(n)] for k, n in enumerate((4, 1, CAP, 6, 2))]


@pytest.mark.parametrize("kind", NEXT_VECTORS)
def test_a_layer_keeps_the_width_and_starts_silent(kind):
    layer = NEXT_VECTORS[kind].new(make_sllm().config)
    states = torch.randn(3, WIDTH)

    def vectors() -> torch.Tensor:
        if isinstance(layer, FlowHead):  # it starts from noise: what is silent is the field
            return layer.field(states[:, None], torch.zeros(3, 1), layer.read(states))
        return layer.sample(states, torch.arange(3)) if isinstance(layer, VectorHead) else layer(states)

    assert vectors().any()
    NEXT_VECTORS[kind].start(layer)
    assert vectors().shape[-1] == WIDTH
    assert not vectors().any()
    assert any(p.requires_grad for p in layer.parameters())


@torch.no_grad()
def test_a_new_graft_first_writes_as_the_decoder_does_without_a_vector():
    """Whatever was read: every sentence scores as if it were the first."""
    vae = make_vae()
    graft = SLLM.graft(vae, make_opt(), max_sentences=16).eval()
    token = graft.nats(**pad([DOCUMENT])).token[0]
    for number, sentence in enumerate(DOCUMENT):
        alone = graft.nats(**pad([[sentence]])).token[0, 0]
        torch.testing.assert_close(token[number, : len(alone)], alone)
    trained = make_sllm()  # as any step of training leaves it
    later = trained.nats(**pad([DOCUMENT])).token[0, 1, :2]
    assert (later - trained.nats(**pad([[DOCUMENT[1]]])).token[0, 0, :2]).abs().min() > 0.01


def test_an_unknown_kind_names_those_that_there_are():
    with pytest.raises(ValueError, match="next_vector='guess': choose projection"):
        make_sllm(next_vector="guess")


@pytest.mark.parametrize("kind", ["energy", "flow"])
def test_a_memory_that_nothing_would_train_is_refused(kind):
    graft = dict(vae=dict(latent="gaussian"), next_vector=kind, num_memory_vectors=2)
    with pytest.raises(ValueError, match=f"next_vector='{kind}', num_memory_vectors=2: with freeze_autoencoder"):
        make_sllm(**graft, freeze_autoencoder=True)
    assert make_sllm(**graft).config.num_memory_vectors == 2
