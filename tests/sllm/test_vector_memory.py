"""A memory of sentence vectors: who reads which of them, what learns from it, and that writing reads the same."""

from typing import Any

import pytest
import torch
from tiny import MEMORY, make_opt, make_sllm, make_vae, pad
from torch import Tensor

from sllm import SLLM
from sllm.evaluation.audit import audit_sentences
from sllm.vector_memory import VECTOR_MEMORIES

SENTENCES = [[10 + 9 * k + i for i in range(n)] for k, n in enumerate((4, 1, 12, 6, 2, 3))]
NUM_VECTORS = 2


def make(**options) -> SLLM:
    return make_sllm(**{"vae": dict(num_decoder_layers=2), "num_memory_vectors": NUM_VECTORS, **options})


def hidden_by_sentence(model: SLLM, texts: list[list[list[int]]], change: Any = None) -> tuple[list[Tensor], Tensor]:
    """The decoder's states of each sentence, its trunk states given, and the vectors that it may read."""
    batch = pad(texts)
    sentences = model.read(**batch)
    states = model.trunk_states(sentences, batch["sentence_mask"]).detach()
    vectors = sentences.embeds = sentences.embeds.detach().clone().requires_grad_()
    if change is not None:
        with torch.no_grad():
            change(vectors)
    found: dict[int, Tensor] = {}
    for decoded in model.decode(sentences, states):
        for n, index in enumerate(decoded.index[: decoded.num_real].tolist()):
            found[index] = decoded.hidden[n][decoded.cut.mask[n]]
    return [found[k] for k in range(len(found))], vectors


@pytest.mark.parametrize(("kind", "memory"), [("trained", {}), ("trained", MEMORY), ("detached", {}), ("marker", {})])
def test_a_sentence_learns_from_the_vectors_of_the_latest_sentences_of_its_text(kind, memory):
    model = make(vector_memory=kind, **memory)
    hidden, vectors = hidden_by_sentence(model, [SENTENCES[:4], SENTENCES[4:]])
    for k, (place, x) in enumerate(zip((0, 1, 2, 3, 0, 1), hidden, strict=True)):
        (gradient,) = torch.autograd.grad(x.square().sum(), vectors, retain_graph=True, allow_unused=True)
        reached = [] if gradient is None else gradient.any(1).nonzero()[:, 0].tolist()
        assert reached == (list(range(k - min(place, NUM_VECTORS), k)) if kind == "trained" else [])


@pytest.mark.parametrize("kind", VECTOR_MEMORIES)
def test_what_the_control_reads_is_how_many_sentences_there_are(kind):
    model = make(vector_memory=kind)
    before, _ = hidden_by_sentence(model, [SENTENCES])
    after, _ = hidden_by_sentence(model, [SENTENCES], lambda vectors: vectors[1].neg_())
    moved = [k for k, (x, y) in enumerate(zip(before, after, strict=True)) if not torch.equal(x, y)]
    assert moved == ([] if kind == "marker" else [2, 3])
    assert model.memory_kinds is not None
    with torch.no_grad():
        model.memory_kinds[2] += 1
    more = hidden_by_sentence(model, [SENTENCES])[0]
    assert [torch.equal(x, y) for x, y in zip(before, more, strict=True)] == [True] + [False] * 5


@pytest.mark.parametrize(
    ("layers", "sizes"), [(1, [3]), (2, [0, 3]), (3, [3, 0, 3]), (4, [0, 3, 0, 3])], ids=["1", "2", "3", "4"]
)
def test_every_second_layer_reads_them_and_so_does_the_last(layers, sizes):
    model = make(vae=dict(num_decoder_layers=layers))
    decoder = model.autoencoder.decoder.layers
    assert [layer.memory_size for layer in decoder] == sizes
    assert [hasattr(layer, "memory_attention") for layer in decoder] == [size > 0 for size in sizes]
    beside = make(vae=dict(num_decoder_layers=layers), **MEMORY).autoencoder.decoder.layers
    assert [layer.memory_size for layer in beside] == [10 if size else 8 for size in sizes]


def test_what_is_written_is_what_is_scored(tmp_path):
    """Step by step as in parallel, of texts beside each other as alone, drafted as not, from a folder as before."""
    model = make(num_future_tokens=3, stop_bias=-100.0)
    audit_sentences(model, SENTENCES).raise_if_failed("it")
    options: dict[str, Any] = dict(max_new_tokens=30, max_new_sentences=4)
    texts = ["One. Two, three", "Where?"]
    alone = [text for one in texts for text in model.generate(text=one, num_draft=1, **options).texts or []]
    assert model.generate(text=texts, num_draft=1, **options).texts == alone
    assert model.generate(text=texts, num_draft=3, **options).texts == alone
    model.save_pretrained(tmp_path)
    again = SLLM.from_pretrained(tmp_path)
    assert again.config.num_memory_vectors == again.config.autoencoder.num_memory_vectors == NUM_VECTORS
    batch = pad([SENTENCES])
    assert torch.equal(again.nats(**batch).token, model.nats(**batch).token)


def test_a_new_graft_reads_nothing_of_them_yet():
    options: dict[str, Any] = dict(max_sentences=16)
    batch = pad([SENTENCES])
    plain, new = (
        SLLM.graft(make_vae(num_decoder_layers=2), make_opt(), **options, **more).eval().nats(**batch).token
        for more in ({}, {"num_memory_vectors": NUM_VECTORS})
    )
    torch.testing.assert_close(plain, new)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(num_memory_vectors=-1), "num_memory_vectors=-1: at least 0"),
        (dict(num_memory_vectors=0, vector_memory="detached"), "set num_memory_vectors to 1 or more"),
        (dict(vector_memory="all"), "vector_memory='all': choose trained or detached or marker"),
    ],
)
def test_what_cannot_be_is_told(options, told):
    with pytest.raises(ValueError, match=told):
        make(**options)
