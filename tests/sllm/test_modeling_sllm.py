"""The sentence-level model: exact likelihood, causality, freezing, its one vocabulary table."""

from itertools import product

import pytest
import torch
from safetensors import safe_open
from tiny import CAP, MEMORY, make_own, make_sllm, pad, read

from lmbase.modeling.noise import sample_keys
from lmbase.text.padding import pad_sentences
from sllm import SLLM

PAD, EOS = 1, 2
TEXTS = ["One, two and three. Four? Yes, five: six.", "Why", "A very long sentence without a mark. And, end."]
SMALL = dict(vocab_size=8)  # four ordinary tokens and OPT's four special ones


def all_sentences(cap: int) -> list[list[int]]:
    tokens = [i for i in range(8) if i != EOS]
    return [list(ids) for length in range(1, cap + 1) for ids in product(tokens, repeat=length)]


# -- likelihood --------------------------------------------------------------------------------------------------------


def test_the_losses_are_the_sums_of_the_nats(sllm):
    batch = read(sllm, TEXTS)
    output, nats, counts = sllm(**batch), sllm.nats(**batch), sllm.loss_counts(**batch)
    torch.testing.assert_close(output.losses, {"token": nats.token.sum(), "stop": nats.stop.sum()})
    torch.testing.assert_close(output.loss, (nats.token.sum() + nats.stop.sum()) / counts["token"])
    assert counts["token"] == counts["stop"] == (nats.token > 0).sum()
    assert (nats.stop > 0).sum(1).tolist() == (batch["sentence_mask"].sum(1) + 1).tolist()


@torch.no_grad()
def test_every_token_and_end_mark_is_scored_but_no_end_is_forced_and_charged(sllm):
    """A sentence of n tokens has n + 1 targets, one of the cap's length has as many as tokens."""
    batch = pad([[[10] * n for n in (1, 5, CAP - 1, CAP)]])
    assert (sllm.nats(**batch).token > 0).sum(-1).tolist() == [[2, 6, CAP, CAP]]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, MEMORY], ids=["plain", "memory"])
def test_probabilities_of_all_sentences_sum_to_1_after_any_context(options):
    model = make_sllm(vae=SMALL | dict(max_sentence_tokens=3, processor=False), opt=SMALL, **options)
    for context in ([], [[5]], [[5, 6, 7], [4, 4]]):
        token = model.nats(**pad([[*context, sentence] for sentence in all_sentences(3)])).token
        probs = torch.exp(-token[:, len(context)].double().sum(-1))
        assert probs.sum().item() == pytest.approx(1, abs=1e-5)
        assert probs.max() < 0.9, "not all on one sentence"


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, MEMORY], ids=["plain", "memory"])
def test_probabilities_of_all_texts_sum_to_1(options):
    """Every text of 0 or 1 sentences, ended, and every opening of 2 sentences, not ended: flags included."""
    model = make_sllm(vae=SMALL | dict(max_sentence_tokens=2, processor=False), opt=SMALL, **options)
    sentences = all_sentences(2)

    def probability(texts, continues):
        nats = model.nats(**pad(texts), continues=torch.full((len(texts),), continues))
        # the flag after the second sentence is left open: both its values together have probability 1
        return torch.exp(-(nats.token.double().sum((1, 2)) + nats.stop[:, :2].double().sum(1))).sum().item()

    closed = probability([[]], False) + probability([[s] for s in sentences], False)
    opened = probability([list(pair) for pair in product(sentences, repeat=2)], True)
    assert closed + opened == pytest.approx(1, abs=1e-5)
    assert 0.05 < opened < 0.95


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, MEMORY], ids=["plain", "memory"])
def test_sentences_that_are_not_wanted_are_context(options):
    model = make_sllm(**options)
    batch = read(model, TEXTS)
    wanted = batch["sentence_mask"].clone()
    wanted[0, :2] = wanted[1] = False
    every, some = model.nats(**batch), model.nats(**batch, wanted=wanted)
    torch.testing.assert_close(some.token, every.token * wanted[..., None])
    assert torch.equal(some.stop, every.stop)


@torch.no_grad()
def test_a_text_that_goes_on_differs_in_its_last_flag_alone(sllm):
    batch = read(sllm, TEXTS)
    ends, goes_on = (sllm.nats(**batch, continues=torch.tensor([False, c, False])) for c in (False, True))
    assert torch.equal(ends.token, goes_on.token)
    assert (ends.stop != goes_on.stop).nonzero().tolist() == [[1, 1]]
    assert torch.exp(-ends.stop[1, 1]) + torch.exp(-goes_on.stop[1, 1]) == pytest.approx(1)


@torch.no_grad()
def test_a_batch_is_its_members(sllm):
    """Texts of different length, one of them empty."""
    texts = [*TEXTS, ""]
    batch = sllm.nats(**read(sllm, texts))
    for b, text in enumerate(texts):
        alone = sllm.nats(**read(sllm, [text]))
        _, s, t = alone.token.shape
        torch.testing.assert_close(batch.token[b, :s, :t], alone.token[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batch.stop[b, : s + 1], alone.stop[0], atol=1e-5, rtol=1e-4)
        assert batch.token[b, s:].sum() == batch.stop[b, s + 1 :].sum() == 0


# -- causality ---------------------------------------------------------------------------------------------------------

DOCUMENT = [[10 + 7 * k + i for i in range(n)] for k, n in enumerate((4, 1, CAP, 6, 2))]


@torch.no_grad()
@pytest.mark.parametrize("changed", range(5))
def test_a_changed_sentence_leaves_all_before_it_bit_equal(sllm, changed):
    other = [s if k < changed else [i + 100 for i in s] for k, s in enumerate(DOCUMENT)]
    first, second = pad([DOCUMENT]), pad([other])
    a, b = sllm.nats(**first), sllm.nats(**second)
    assert torch.equal(a.token[0, :changed], b.token[0, :changed])
    assert torch.equal(a.stop[0, : changed + 1], b.stop[0, : changed + 1])
    assert torch.equal(sllm(**first).states[0, : changed + 1], sllm(**second).states[0, : changed + 1])
    assert (a.token[0, changed:].sum(1) != b.token[0, changed:].sum(1)).all(), "later sentences do depend on it"


@torch.no_grad()
@pytest.mark.parametrize("kept", range(1, 5))
def test_a_cut_off_text_scores_as_before(sllm, kept):
    whole, cut = sllm.nats(**pad([DOCUMENT])), sllm.nats(**pad([DOCUMENT[:kept]]), continues=torch.tensor([True]))
    longest = cut.token.shape[-1]
    torch.testing.assert_close(whole.token[0, :kept, :longest], cut.token[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.stop[0, : kept + 1], cut.stop[0], atol=1e-5, rtol=1e-5)


def test_no_gradient_reaches_a_sentence_that_is_still_to_come(sllm):
    """Neither its vector nor its token states: both come out of the encoder, replaced here by leaves."""
    leaves: list[torch.Tensor] = []

    def detach(module, inputs, output):
        leaves.extend(x.detach().requires_grad_() for x in output)
        return tuple(leaves)

    handle = sllm.autoencoder.encoder.register_forward_hook(detach)
    nats = sllm.nats(**pad([[s[:1] * 3 for s in DOCUMENT]]))  # of one length: the encoder keeps their order
    handle.remove()
    for k in range(len(DOCUMENT)):
        own = nats.token[0, k].sum() + nats.stop[0, k]
        gradients = torch.autograd.grad(own, leaves, retain_graph=True, allow_unused=True)
        for gradient in (g for g in gradients if g is not None):
            assert not gradient[k:].any()
        assert k == 0 or gradients[0][:k].flatten(1).any(1).all(), "every earlier sentence counts"
        uses_tokens = gradients[1] is not None and bool(gradients[1].any())
        assert uses_tokens == (k > 0 and sllm.config.num_memory_tokens > 0)


# -- training ----------------------------------------------------------------------------------------------------------


def trainable(model: SLLM) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def part(model: SLLM, *prefixes: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


JOINTS = ("start_state", "sentence_in", "sentence_out", "stop_head", "memory_kinds")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, [""]),
        ({"freeze_autoencoder": True}, ["trunk", *JOINTS]),
        ({"freeze_trunk_layers": 0}, ["autoencoder", *JOINTS]),
        ({"freeze_trunk_layers": 1}, ["autoencoder", "trunk.decoder.layers.0.", "trunk.decoder.layers.3.", *JOINTS]),
        ({"freeze_trunk_layers": 0, "freeze_autoencoder": True}, JOINTS),
    ],
)
@pytest.mark.parametrize("memory", [{}, MEMORY], ids=["plain", "memory"])
def test_what_is_not_frozen_is_trained(options, parts, memory, tmp_path):
    """Every trainable parameter has a gradient (else DDP stops), no other has; a checkpoint keeps it so."""
    model = make_sllm(opt=dict(num_hidden_layers=4), **options, **memory).train()
    memory_joints = {name for name, _ in model.named_parameters() if "memory_" in name}
    assert trainable(model) == part(model, *parts) | memory_joints
    model(**read(model, TEXTS)).loss.backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == trainable(model)
    # a key's bias cancels out of the softmax: its gradient is 0 in theory
    zero = {name for name, weight in model.named_parameters() if weight.grad is not None and not weight.grad.any()}
    assert {name for name in zero if "k_proj.bias" not in name} == set()
    model.save_pretrained(tmp_path)
    assert trainable(SLLM.from_pretrained(tmp_path)) == trainable(model)


def test_the_focal_loss_is_for_training_only():
    model = make_sllm(vae=dict(focal_gamma=2.0))
    batch = read(model, TEXTS)
    exact = model(**batch).losses
    torch.testing.assert_close(exact["token"], model.nats(**batch).token.sum())
    assert model.train()(**batch).losses["token"] < 0.9999 * exact["token"]


def test_bf16_autocast_trains_with_fp32_weights(sllm):
    batch = read(sllm, TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        output = sllm(**batch)
    torch.testing.assert_close(output.loss, sllm(**batch).loss, rtol=0.05, atol=0)
    gradients = torch.autograd.grad(output.loss, [p for p in sllm.parameters() if p.requires_grad])
    assert all(g.isfinite().all() and g.dtype == torch.float32 for g in gradients)


@torch.no_grad()
def test_a_gaussian_autoencoder_scores_with_its_mean():
    model = make_sllm(vae=dict(latent="gaussian"))
    batch = read(model, TEXTS)
    assert torch.equal(model.nats(**batch).token, model.nats(**batch).token)


# -- saving ------------------------------------------------------------------------------------------------------------


def test_there_is_one_vocabulary_table(sllm, tmp_path):
    """Encoder, decoder and output layer share it, in memory and in the file; the trunk has none."""
    assert sllm.get_input_embeddings() is sllm.autoencoder.embed_tokens
    sllm.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    assert sum(260 in shape for shape in shapes) == 1
    assert sum(torch.Size(shape).numel() for shape in shapes) == sllm.num_parameters()
    assert [p.name for p in tmp_path.glob("*.bin")] == []


def test_a_batch_of_empty_texts_trains_the_stop_head(sllm):
    batch = pad_sentences([[], []], sllm.config.pad_token_id)
    output = sllm(batch.input_ids, batch.attention_mask, batch.sentence_mask)
    output.loss.backward()
    assert output.losses["token"] == 0
    assert output.losses["stop"] > 0
    assert sllm.stop_head.bias.grad.abs().sum() > 0


# -- window dropout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_own, lambda: make_sllm(**MEMORY)])
def test_windows_are_closed_by_their_keys_and_in_training_only(make):
    model, texts = make(), [[[10 + i, 11 + i, 12], [13], [14 + i, 15]] for i in range(8)]
    keys = sample_keys(0, 3, torch.arange(8))

    def loss(numbers, dropout=0.5):
        model.window_dropout = dropout
        with torch.no_grad():
            return float(model(**pad([texts[i] for i in numbers]), keys=keys[numbers]).losses["token"])

    evaluated = [loss([i]) for i in range(8)]
    model.train()
    opened, closed = [loss([i], 0.0) for i in range(8)], [loss([i], 1.0) for i in range(8)]
    assert opened == pytest.approx(evaluated)  # the dropout was there, and did nothing
    drawn = [loss([i]) for i in range(8)]
    is_closed = [abs(one - other) < 1e-4 for one, other in zip(drawn, closed, strict=True)]
    assert drawn == pytest.approx([(opened, closed)[which][i] for i, which in enumerate(is_closed)])
    assert 0 < sum(is_closed) < 8
    assert loss(list(range(8))) == pytest.approx(sum(drawn))
    assert model.draws
    model.window_dropout = 0.0
    assert not model.draws


@torch.no_grad()
def test_which_windows_are_closed_says_nothing_of_the_vectors_that_are_drawn():
    model = make_sllm(vae=dict(latent="gaussian"), **MEMORY).train()
    model.window_dropout = 0.3
    batch = pad([[[5, 6, 7], [8, 9]]] * 500)
    read = model.read(*batch.values(), sample_keys(0, 0, torch.arange(500)))
    of_both = torch.cat([read.closed.float()[:, None], read.embeds.view(500, -1)], 1)
    assert torch.corrcoef(of_both.T)[0, 1:].abs().max() < 0.25  # by chance 0.15; it was 0.76
