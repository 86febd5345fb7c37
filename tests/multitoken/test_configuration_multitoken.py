"""Configurations of multi-token models: sizes that match, and what is refused."""

import pytest
from tiny import make_opt

from multitoken import MultiTokenLM, MultiTokenLMConfig
from multitoken.heads import HEAD_KINDS


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_matching_sizes(kind):
    """With n heads a model has as many blocks as the plain OPT; heads that are no blocks come on top."""
    opt = make_opt(num_hidden_layers=4)
    model = MultiTokenLM(MultiTokenLMConfig.matching(opt.config, 3, kind))
    plain, own, heads = (sum(p.numel() for p in m.parameters()) for m in (opt, model, model.heads))
    assert own == plain + (0 if HEAD_KINDS[kind].is_block else heads)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_future_tokens=0), "at least 1"),
        (dict(head_kind="diagonal"), "choose parallel"),
        (dict(head_weights=[1.0]), "1 entries for 3 heads"),
        (dict(head_weights=[1.0, -1.0, 1.0]), "negative"),
        (dict(head_weights=[0.0, 0.0, 0.0]), "no head would learn"),
        (dict(num_future_tokens=1, draft_transitions=True), "no drafting head"),
        (dict(train_transitions_only=True), "set draft_transitions"),
        (dict(draft_targets="greedy"), "set train_transitions_only"),
    ],
)
def test_impossible_configurations_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MultiTokenLM(MultiTokenLMConfig(**dict(num_future_tokens=3) | options))
    with pytest.raises(ValueError, match="as many heads at most"):
        MultiTokenLMConfig.matching(make_opt().config, 3)
