"""Reading sentence after sentence with caches: scores are those of the parallel path."""

import copy

import pytest
import torch
from tiny import CAP, make_sllm, pad
from torch import nn

from lmbase.modeling.packed import KINDS, packed, packed_table
from sllm.reading import draw_vectors, newest_tokens, vocabulary_logits, write_rows

EOS = 2
DOCUMENT = [[10 + 7 * k + i for i in range(n)] for k, n in enumerate((4, 1, CAP, 6, 2))]


@torch.no_grad()
def test_reading_and_writing_with_caches_equals_the_parallel_scores(sllm):
    """Two texts that are read up to different sentences, then sentence by sentence, token by token."""
    texts, read_at_once = [DOCUMENT[::-1], DOCUMENT], [2, 3]
    embed = sllm.autoencoder.embed_tokens
    expected = [sllm.nats(**pad([text])) for text in texts]
    state = sllm.prefill(**pad([text[:n] for text, n in zip(texts, read_at_once, strict=True)]))
    for step in range(2):
        numbers = [n + step for n in read_at_once]
        written = pad([[text[n]] for text, n in zip(texts, numbers, strict=True)])
        ids, mask = written["input_ids"][:, 0], written["attention_mask"][:, 0]
        latest = state.states[:, -1]
        decoder_state = sllm.start_sentence(state)
        tokens = torch.cat([torch.full((2, 1), EOS), ids], dim=1)
        for t in range(ids.shape[1]):
            hidden = sllm.autoencoder.decoder.step(embed(tokens[:, t : t + 1]), decoder_state)[:, -1]
            logits = hidden @ embed.weight.T
            if t == 0:
                logits[:, EOS] = -torch.inf
            for b in (b for b in range(2) if mask[b, t]):
                nats = -logits[b].log_softmax(-1)[ids[b, t]]
                torch.testing.assert_close(nats, expected[b].token[0, numbers[b], t], atol=1e-4, rtol=1e-4)
        goes_on = -torch.nn.functional.logsigmoid(-sllm.stop_head(latest))[:, 0]
        flags = torch.stack([e.stop[0, n] for e, n in zip(expected, numbers, strict=True)])
        torch.testing.assert_close(goes_on, flags, atol=1e-4, rtol=1e-4)
        sllm.step(ids, mask, state)


@torch.no_grad()
def test_a_drawn_sentence_is_written_with_the_memory_that_the_decoder_learned_with():
    """Given the vector that a sentence was encoded as, its tokens cost what they do when all sentences are decoded at
    once; and of the draws for one that has begun the decoder chooses with that memory, too."""
    model = make_sllm(vae=dict(latent="gaussian"), next_vector="energy", num_memory_vectors=2)
    sentences = model.read(**pad([DOCUMENT]))
    (*_, last) = range(len(DOCUMENT))
    decoded = model.decode(sentences, model.trunk_states(sentences, pad([DOCUMENT])["sentence_mask"]))
    (expected,) = [d.hidden[d.index == last][0] for d in decoded if last in d.index]
    state = model.prefill(**pad([DOCUMENT[:last]]))
    state.drawn = sentences.embeds[last:]
    rows = write_rows(model, torch.tensor([[EOS, *DOCUMENT[last]]]), model.start_sentence(state))
    torch.testing.assert_close(model.finish(rows)[0], expected[: rows.shape[1]], atol=1e-4, rtol=1e-4)
    chosen = []
    for mask in (state.vectors_mask, torch.zeros_like(state.vectors_mask)):
        state.vectors_mask = mask
        for key in range(20):
            draw_vectors(model, state, torch.tensor([key]), 1.0, [DOCUMENT[last]])
            chosen.append(state.drawn.clone())
    assert any(not torch.equal(*pair) for pair in zip(chosen[:20], chosen[20:], strict=True))


@pytest.mark.parametrize("weights", KINDS)
def test_writing_with_weights_in_fewer_bits(weights):
    """Every product that writing needs is one of such weights, and the text is that of the rounded weights."""
    sllm = make_sllm(vae=dict(hidden_size=32), opt=dict(hidden_size=32), num_future_tokens=3, num_memory_vectors=2)
    rounded = copy.deepcopy(sllm)
    for layer in [*rounded.modules()]:
        if isinstance(layer, nn.Linear):
            layer.weight.data = packed(layer.weight, weights).unpacked()
    sllm.write_in(weights)
    assert not any(isinstance(layer, nn.Linear) for layer in sllm.modules())
    hidden = torch.randn(4, 3, 32)
    small = packed_table(sllm.get_input_embeddings().weight, weights)
    expected = hidden @ small.unpacked().T
    torch.testing.assert_close(vocabulary_logits(sllm, hidden), expected, rtol=1e-4, atol=1e-4)
    rounded.packed_table = small
    texts = [model.generate(text="Yes, no.", max_new_tokens=24).texts for model in (sllm, rounded)]
    assert texts[0] == texts[1] or weights == "int4"
    assert sllm.generate(text="Yes, no.", max_new_tokens=24, num_draft=1).texts == texts[0]


def test_the_newest_tokens_end_where_each_sentence_does():
    """Three are remembered: of a long sentence its last, of a short one with those before it, of none the old ones."""
    old = torch.tensor([[1, 2, 3]] * 3)[..., None]
    new = torch.tensor([[11, 12, 13, 14], [21, 0, 0, 0], [0, 0, 0, 0]])[..., None]
    new_mask = new[..., 0] > 0
    old_mask = torch.tensor([[False, True, True]] * 3)
    tokens, mask = newest_tokens(old, old_mask, new, new_mask)
    assert tokens[..., 0].tolist() == [[12, 13, 14], [2, 3, 21], [1, 2, 3]]
    assert mask.tolist() == [[True] * 3, [True] * 3, [False, True, True]]


@torch.no_grad()
def test_a_text_that_is_over_stays_as_it_is_while_others_go_on(sllm):
    further = [30, 31, 32]
    state = sllm.prefill(**pad([DOCUMENT[:2], DOCUMENT[2:4]]))
    before = state.tokens[1], state.tokens_mask[1]
    batch = pad([[further], [further]])
    sllm.step(batch["input_ids"][:, 0], torch.tensor([[True] * 3, [False] * 3]), state)
    assert state.attention_mask[:, -1].tolist() == [1, 0]
    assert torch.equal(state.tokens[1], before[0])
    assert torch.equal(state.tokens_mask[1], before[1])
    whole = sllm.prefill(**pad([[*DOCUMENT[:2], further]]))
    torch.testing.assert_close(state.states[0], whole.states[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(state.tokens_mask[0], whole.tokens_mask[0])
    torch.testing.assert_close(state.tokens[0], whole.tokens[0], rtol=1e-4, atol=1e-4)
