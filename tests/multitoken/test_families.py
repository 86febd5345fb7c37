"""Heads on trunks of every family: what holds for OPT holds for each of them."""

import itertools

import pytest
import torch
from tiny import LMS, make_lm, make_mtp, randomise

from lmbase.modeling.cache import RowCache
from lmbase.modeling.causality import audit_tokens
from lmbase.modeling.token_lm import TokenLM
from multitoken import MultiTokenLM
from multitoken.heads import HEAD_KINDS

# A further block below head 1 cannot start without effect where norms come after layers: test_conversion.py.
ALL = [pair for pair in itertools.product(LMS, HEAD_KINDS) if pair != ("opt-350m", "anticausal")]
IDS = torch.tensor([[10, 11, 12, 13, 14], [20, 21, 22, 1, 1]])
BATCH = dict(input_ids=IDS, attention_mask=IDS != 1, ends=torch.tensor([True, False]))
PROMPTS = [[2, 10, 11, 12], [2, 20], [2, 15, 16, 17, 18, 19, 20]]
TREE = ((0,), (1,), (0, 0), (1, 0), (0, 1))
FIXED: dict = dict(cache_implementation="static", disable_compile=True)
every = pytest.mark.parametrize(("shape", "kind"), ALL, ids=map("-".join, ALL))
parallel = pytest.mark.parametrize("shape", LMS)


def build(shape, kind="parallel", **options):
    return make_mtp(lm=make_lm(shape, num_hidden_layers=3), head_kind=kind, **options)


def nats(model, ids):
    """-log p of each token of one text."""
    ids = torch.tensor([ids])
    return model.nats(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([False]))[0, :-1]


WRITING = [(shape, kind) for shape, kind in ALL if shape != "opt" or kind == "parallel"]  # others test OPT's


@pytest.fixture(scope="module", params=WRITING, ids="-".join)
def counter(request):
    """A model that has learned to count, so that some guesses come true."""
    shape, kind = request.param
    torch.manual_seed(0)
    model = MultiTokenLM.from_lm(make_lm(shape, num_hidden_layers=3, vocab_size=24), 3, kind).train()
    randomise(model, std=0.03)  # norms after layers learn nothing from large weights
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        ids = 4 + (torch.randint(20, (16, 1)) + torch.arange(12)) % 20
        model(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(16, dtype=torch.bool)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().double()


def write(model, prompts, **options):
    """New ids of each text, and what drafting brought."""
    width = max(map(len, prompts))
    ids = torch.tensor([[1] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    found = model.generate(ids, mask, **dict(max_new_tokens=12, min_new_tokens=12) | options)
    rows = [row[width : width + n].tolist() for row, n in zip(found.sequences, found.num_new_tokens, strict=True)]
    return rows, found.statistics


# -- likelihood --------------------------------------------------------------------------------------------------------


@torch.no_grad()
@every
def test_head_1_is_the_model_that_it_came_from(shape, kind):
    for tied in (True, False):
        lm = make_lm(shape, num_hidden_layers=3, tie_word_embeddings=tied)
        model = MultiTokenLM.from_lm(lm, 3, kind)
        ids = torch.tensor([[2, 10, 11, 12]])
        assert torch.equal(model.logits(ids), lm(ids).logits)
        torch.testing.assert_close(model.nats(**BATCH), TokenLM(lm).nats(**BATCH))


@torch.no_grad()
@parallel
def test_a_trunk_may_be_all_but_empty(shape):
    """One block makes as many heads as one likes: it is copied."""
    lm = make_lm(shape, num_hidden_layers=1)
    model = MultiTokenLM.from_lm(lm, 3)
    assert torch.equal(model.logits(IDS[:1]), lm(IDS[:1]).logits)
    assert write(model, PROMPTS, num_draft=1) == write(model, PROMPTS, num_draft=1, **FIXED)
    assert write(model, PROMPTS, num_draft=1)[0] == write(model, PROMPTS, num_draft=3)[0]


@torch.no_grad()
@every
def test_no_score_sees_what_it_scores_and_caches_change_none(shape, kind):
    model = build(shape, kind)

    def steps(ids):
        cache, found, read = RowCache(1, 8, torch.device("cpu")), [], [model.config.bos_token_id, *ids]
        for place, token in enumerate(ids):
            one = torch.tensor([[read[place]]])
            _, states = model.step(one, torch.tensor([[place]]), torch.ones(1, 1, dtype=torch.bool), cache)
            cache.keep([[0]])
            logits = model.finish(states[0]) @ model.unembedding(1).T
            found.append(-logits[0, 0].log_softmax(-1)[token])
        return torch.stack(found)

    report = audit_tokens(lambda ids: nats(model, ids), steps, [10, 11, 12, 13, 14, 15], 260)
    report.raise_if_failed(shape)
    assert (nats(model, [10, 11, 12])[1:] != nats(model, [50, 11, 12])[1:]).all(), "earlier tokens do count"


@torch.no_grad()
@parallel
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(shape, side):
    model = build(shape)
    alone = model.logits(torch.tensor([[2, 10, 11]]))
    ids = torch.tensor([[1, 1, 2, 10, 11] if side == "left" else [2, 10, 11, 1, 1], [2, 20, 21, 22, 23]])
    batch = model.logits(ids, ids != 1)
    torch.testing.assert_close(batch[:1, 2:] if side == "left" else batch[:1, :3], alone)


# -- training ----------------------------------------------------------------------------------------------------------


@every
def test_one_step_moves_every_weight(shape, kind):
    model = build(shape, kind).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = model(**BATCH).loss
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    # OPT has no rotation: there a key's bias cancels out of the softmax
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert {name for name in still if "k_proj.bias" not in name} == set()


@parallel
def test_gradient_checkpointing_changes_nothing(shape):
    model = build(shape).train()
    expected = torch.autograd.grad(model(**BATCH).loss, list(model.parameters()))
    runs: list[int] = []
    next(model.heads[1].children()).register_forward_hook(lambda *_: runs.append(1))
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(torch.autograd.grad(model(**BATCH).loss, list(model.parameters())), expected)
    assert len(runs) == 2, "a block runs once more on the way back"


@torch.no_grad()
@every
def test_saved_and_loaded_is_the_same(shape, kind, tmp_path):
    model = build(shape, kind, own_unembeddings=True)
    model.save_pretrained(tmp_path)
    loaded = MultiTokenLM.from_pretrained(tmp_path)
    for ours, theirs in zip(model.nats_by_head(**BATCH), loaded.nats_by_head(**BATCH), strict=True):
        assert torch.equal(ours, theirs)
    assert write(loaded, PROMPTS)[0] == write(model, PROMPTS)[0]
    assert loaded.config.trunk.model_type == LMS[shape]["family"]


# -- writing -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_caches_change_nothing(counter):
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(12):
            logits = counter.logits(torch.tensor([ids]))[0, -1]
            logits[2] = -torch.inf  # no text ends before the limit
            ids.append(int(logits.argmax()))
        assert write(counter, [prompt], num_draft=1)[0] == [ids[len(prompt) :]]


def test_drafting_changes_nothing(counter):
    plain, _ = write(counter, PROMPTS, num_draft=1)
    for options in (dict(num_draft=3), dict(num_draft=3, tree=TREE), dict(num_draft=1, prompt_lookup_num_tokens=3)):
        found, statistics = write(counter, PROMPTS, **options)
        assert found == plain
        if "prompt_lookup_num_tokens" not in options:
            assert sum(statistics.accepted) > 0, "nothing was ever accepted, so nothing was tested"


def test_a_batch_is_its_members(counter):
    together, _ = write(counter, PROMPTS, num_draft=2, min_new_tokens=0)
    assert together == [write(counter, [prompt], num_draft=2, min_new_tokens=0)[0][0] for prompt in PROMPTS]


def test_caches_of_fixed_size_change_nothing(counter):
    for options in (dict(num_draft=1), dict(num_draft=3, tree=TREE), dict(num_draft=2, do_sample=True, seed=1)):
        assert write(counter, PROMPTS, **options, **FIXED) == write(counter, PROMPTS, **options)


def test_the_opening_token_may_be_the_padding():
    """GPT-2 has one token for all: left out of the mask as padding, it is put in front again."""
    model = make_mtp(lm=make_lm("gpt2", bos_token_id=None))
    assert len(set(model.ids)) == 1
    options = dict(max_new_tokens=9, min_new_tokens=9)
    prompts = torch.tensor([[2, 2, 2, 10, 11], [2, 20, 21, 22, 23]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    without, given = (model.generate(prompts, m, **options).sequences for m in (None, mask))
    assert torch.equal(without, given)
