"""Token by token with a cache, and in one pass: the same nats, of every family; a leak is found."""

import pytest
import torch
from families import FAMILIES, make_family_heads, make_lm

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
    report = audit_ids(scorer, lambda ids: lm_step_nats(lm, ids), IDS, 260, lm.device)
    assert any("moved the score" in failure for failure in report.failures)


def test_later_heads_have_fewer_targets_and_nats_of_their_own():
    first, second = nats_of_heads(make_family_heads("llama"), [IDS, IDS[:2]], 4)
    assert first > 0
    assert second > 0
