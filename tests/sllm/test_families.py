"""Grafts onto trunks of every family: what holds for OPT holds for each of them."""

import copy

import pytest
import torch
from tiny import CAP, LM_WIDTH, LMS, MEMORY, make_lm, make_sllm
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmbase.modeling.devices import moved
from lmbase.modeling.packed import packed
from lmbase.modeling.trunk import blocks
from lmbase.text.padding import pad_sentences
from sllm import SLLM
from sllm.evaluation.audit import audit_sentences

PAD, EOS = 1, 2
DOCUMENT = [[10 + 7 * k + i for i in range(n)] for k, n in enumerate((4, 1, CAP, 6, 2))]
PROMPTS = [[[10, 11, 9], [8, 7]], [[4, 5, 6, 7]], []]
TREE = [[0], [1], [0, 0], [0, 1]]
FIXED: dict = dict(cache_implementation="static", disable_compile=True)
HEADS: dict = MEMORY | dict(num_future_tokens=3, draft_head_kind="residual")
every = pytest.mark.parametrize("shape", LMS)


def build(shape, vae=None, lm=None, **options) -> SLLM:
    """Without processor prompts are sentences, and none of them is open."""
    vae = dict(hidden_size=LM_WIDTH, processor=False) | (vae or {})
    return make_sllm(vae=vae, lm=make_lm(shape, **lm or {}), **options)


def pad(*texts):
    return vars(pad_sentences(texts, PAD))


@pytest.fixture(scope="module", params=LMS)
def drafting(request):
    """With so few tokens to choose from, some guesses of random weights come true."""
    few = dict(vocab_size=12)
    return build(request.param, few, few, stop_bias=-4.0, **HEADS).double()


def write(model, *prompts, **options):
    """Ids and sentences of each text, and what drafting brought."""
    options = dict(max_new_tokens=24, min_new_tokens=24) | options
    found = model.generate(pad(*prompts)["input_ids"], **options)
    rows = [ids[mask].tolist() for ids, mask in zip(found.sequences, found.attention_mask, strict=True)]
    return rows, found.sentence_lengths, found.statistics


# -- graft and training ------------------------------------------------------------------------------------------------


@every
def test_one_step_moves_every_weight(shape):
    model = build(shape, **HEADS).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = model(**pad(DOCUMENT, DOCUMENT[:2])).loss
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    # without rotation a key's bias cancels out of the softmax
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert {name for name in still if "k_proj.bias" not in name} == set()


@every
def test_gradient_checkpointing_of_the_trunk_changes_nothing(shape):
    model = build(shape).train()
    weights = list(model.parameters())
    expected = torch.autograd.grad(model(**pad(DOCUMENT)).loss, weights)
    runs: list[int] = []
    next(blocks(model.trunk)[0].children()).register_forward_hook(lambda *_: runs.append(1))
    model.trunk.gradient_checkpointing_enable()
    torch.testing.assert_close(torch.autograd.grad(model(**pad(DOCUMENT)).loss, weights), expected)
    assert len(runs) == 2, "a block runs once more on the way back"


# -- likelihood --------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("options", [{}, MEMORY], ids=["plain", "memory"])
def test_no_score_sees_what_it_scores_and_caches_change_none(shape, options):
    audit_sentences(build(shape, **options), DOCUMENT).raise_if_failed(shape)


@torch.no_grad()
@every
def test_a_batch_scores_as_its_members(shape):
    """Texts of different length, one of them empty."""
    model, texts = build(shape, **MEMORY), [DOCUMENT[:2], DOCUMENT, []]
    batch = model.nats(**pad(*texts))
    for b, text in enumerate(texts):
        alone = model.nats(**pad(text))
        _, s, t = alone.token.shape
        torch.testing.assert_close(batch.token[b, :s, :t], alone.token[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batch.stop[b, : s + 1], alone.stop[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@every
def test_saved_and_loaded_is_the_same(shape, tmp_path):
    model = build(shape, **HEADS)
    model.save_pretrained(tmp_path)
    loaded = SLLM.from_pretrained(tmp_path)
    theirs = loaded.state_dict()
    assert theirs.keys() == model.state_dict().keys()
    assert all(torch.equal(theirs[name], weight) for name, weight in model.state_dict().items())
    # where weights lie in memory may decide which kernel reads them
    torch.testing.assert_close(
        vars(loaded.nats(**pad(DOCUMENT))), vars(model.nats(**pad(DOCUMENT))), rtol=1e-6, atol=1e-6
    )
    assert write(loaded, *PROMPTS)[:2] == write(model, *PROMPTS)[:2]
    assert loaded.config.trunk.model_type == LMS[shape]["family"]


# -- writing -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_every_token_is_the_first_choice_without_caches(drafting):
    for prompt in PROMPTS:
        (ids,), (lengths,), _ = write(drafting, prompt, num_draft=1)
        text = [part.tolist() for part in torch.tensor(ids).split(lengths)]
        batch = pad(text)
        sentences = drafting.read(**batch)
        found: dict[int, list[int]] = {}
        for decoded in drafting.decode(sentences, drafting.trunk_states(sentences, batch["sentence_mask"])):
            logits = decoded.hidden @ drafting.get_input_embeddings().weight.T
            logits[:, 0, EOS] = -torch.inf  # no sentence is empty
            found |= dict(zip(decoded.index.tolist(), logits.argmax(-1).tolist(), strict=False))
        assert len(text) > len(prompt) + 1
        for number in range(len(prompt), len(text) - 1):  # the last was cut off
            closed = [*text[number], EOS][:CAP]
            assert found[number][: len(closed)] == closed


def test_drafting_changes_nothing(drafting):
    plain = write(drafting, *PROMPTS, num_draft=1)
    for tree in (None, TREE):
        found = write(drafting, *PROMPTS, num_draft=3, tree=tree)
        assert found[:2] == plain[:2]
        assert all(found[2].accepted), "nothing was ever accepted, so nothing was tested"
    assert write(drafting, *PROMPTS, num_draft=1, prompt_lookup_num_tokens=3)[:2] == plain[:2]


def test_a_batch_writes_as_its_members(drafting):
    options = dict(num_draft=3, min_new_tokens=0)
    rows, lengths, _ = write(drafting, *PROMPTS, **options)
    alone = [write(drafting, prompt, **options) for prompt in PROMPTS]
    assert rows == [found[0][0] for found in alone]
    assert lengths == [found[1][0] for found in alone]


def test_caches_of_fixed_size_change_nothing(drafting):
    for prompts in (PROMPTS[:1], PROMPTS):
        for way in (dict(num_draft=1), dict(num_draft=3), dict(num_draft=3, do_sample=True, seed=1)):
            assert write(drafting, *prompts, **way, **FIXED) == write(drafting, *prompts, **way)


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_texts_go_on_where_positions_end(shape):
    """The oldest sentences give way, and what stays is read again from position 0."""
    model = build(shape, lm=dict(max_position_embeddings=5), max_sentences=4, stop_bias=-100.0).double()
    options = dict(max_new_sentences=9, max_new_tokens=None, min_new_tokens=1, overflow="slide")
    plain = write(model, *PROMPTS, **options)
    assert min(map(len, plain[1])) >= 9
    assert write(model, *PROMPTS, **options, **FIXED) == plain


@torch.no_grad()
@every
def test_bf16_scores_and_writes(shape):
    """With products in place of the fused kernel on a CPU, and with masks of that dtype in caches of fixed size."""
    model = build(shape, **HEADS)
    half = moved(copy.deepcopy(model), dtype=torch.bfloat16)
    expected, found = (m.nats(**pad(DOCUMENT, DOCUMENT[:2])).token.sum((1, 2)) for m in (model, half))
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)
    for way in ({}, FIXED):
        assert [len(row) for row in write(half, *PROMPTS, **way)[0]] == [5 + 24, 4 + 24, 24]


@every
def test_writing_in_int8(shape):
    """Every product that writing needs is one of int8 weights, and the text is that of the rounded weights."""
    model = build(shape, stop_bias=-100.0)
    rounded = copy.deepcopy(model)
    for layer in [*rounded.modules()]:
        if isinstance(layer, nn.Linear | Conv1D):
            weight = layer.weight.detach()
            held = packed(weight if isinstance(layer, nn.Linear) else weight.T, "int8").unpacked()
            layer.weight.data = held if isinstance(layer, nn.Linear) else held.T
    model.write_in("int8")
    assert not any(isinstance(layer, nn.Linear | Conv1D) for layer in model.modules())
    rounded.packed_table = packed(model.get_input_embeddings().weight, "int8")
    assert write(model, *PROMPTS) == write(rounded, *PROMPTS)
