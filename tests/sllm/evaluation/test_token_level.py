"""Token by token with a cache, and in one pass: the same nats, of every family; a leak is found."""

import functools

import pytest
import torch
from families import FAMILIES, make_family_heads, make_lm
from torch import nn

from lmbase.modeling.token_lm import TokenLM
from sllm.evaluation.token_level import audit_ids, head_step_nats, lm_step_nats, nats_of_heads

IDS = [10, 11, 12, 13, 14]


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_give_the_nats_of_one_pass(family):
    lm = make_lm(family)
    with torch.no_grad():
        logits = lm(torch.tensor([[2, *IDS]])).logits[0].log_softmax(-1)
    torch.testing.assert_close(lm_step_nats(lm, IDS), -logits[range(5), IDS], atol=1e-4, rtol=1e-4)
    heads = make_family_heads(family)
    torch.testing.assert_close(head_step_nats(heads, IDS), lm_step_nats(heads.to_lm(), IDS), atol=1e-4, rtol=1e-4)


class Leaky(TokenLM):
    def nats(self, input_ids, *rest):
        return super().nats(input_ids, *rest) + input_ids.sum() * 1e-3


def test_a_score_that_sees_its_own_token_is_found():
    lm = make_lm("llama")
    scorer = Leaky(lm).eval()
    report = audit_ids(scorer, lambda ids: lm_step_nats(lm, ids), IDS, 260)
    assert any("moved the score" in failure for failure in report.failures)


class Beside(nn.Module):
    """A model whose texts see what is beside them in a batch."""

    def __init__(self, model):
        super().__init__()
        self.model, self.ids = model, model.ids

    def nats(self, input_ids, *rest):
        return self.model.nats(input_ids, *rest) + 1e-3 * input_ids.roll(1, 0)[:, :1]


@pytest.mark.parametrize("kind", ["plain", "heads"])
def test_F4_a_score_that_sees_another_text_of_its_batch_is_found(kind):
    lm, heads = make_lm("llama"), make_family_heads("llama")
    model: nn.Module = heads if kind == "heads" else TokenLM(lm).eval()

    def steps(ids):
        return head_step_nats(heads, ids) if kind == "heads" else lm_step_nats(lm, ids)

    audit_ids(model, steps, IDS, 260).raise_if_failed("it")
    failures = audit_ids(Beside(model), steps, IDS, 260).failures
    assert "changing the texts beside it moved the score of token 1" in failures


class LeakyFarAway(TokenLM):
    """From the 10th token on a score sees the last token of its text."""

    def nats(self, input_ids, *rest):
        found = super().nats(input_ids, *rest)
        return found + 1e-3 * input_ids[:, -1:] * (torch.arange(found.shape[1]) >= 9)


def test_F4_what_follows_the_opening_is_audited_by_samples():
    lm, ids = make_lm("llama"), list(range(10, 50))
    steps = functools.partial(lm_step_nats, lm)
    audit_ids(TokenLM(lm).eval(), steps, ids, 260, 8).raise_if_failed("it")
    assert audit_ids(LeakyFarAway(lm).eval(), steps, ids[:8], 260).passed
    assert any("moved the score" in f for f in audit_ids(LeakyFarAway(lm).eval(), steps, ids, 260, 8).failures)


def test_later_heads_have_fewer_targets_and_nats_of_their_own():
    first, second = nats_of_heads(make_family_heads("llama"), [IDS, IDS[:2]], 4)
    assert first
    assert first > 0
    assert second
    assert second > 0


def test_a_head_that_no_text_is_long_enough_for_has_no_nats():
    *nats, last = nats_of_heads(make_family_heads("llama", 3), [IDS[:1]], 4)
    assert None not in nats
    assert last is None
