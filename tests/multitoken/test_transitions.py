"""Guesses after known guesses: judged as one product with the whole vocabulary would judge them."""

import pytest
import torch
from tiny import make_mtp, make_sllm
from torch import nn

from multitoken import transitions
from multitoken.draft_tree import DraftTree
from multitoken.transitions import Ahead, Guessers, Transition, ranked_after, sequential_guesses

WIDTH, WORDS = 8, 40
TREES = {
    "chain": DraftTree.chain(3),
    "tree": DraftTree(((0,), (1,), (2,), (0, 0), (0, 1), (2, 1), (0, 0, 0), (2, 1, 0), (2, 1, 3))),
}


@pytest.fixture
def parts():
    torch.manual_seed(0)
    judges = nn.ModuleList(Transition(WIDTH) for _ in range(3))
    for weight in judges.parameters():
        nn.init.normal_(weight)
    return judges, torch.randn(WORDS, WIDTH), torch.randn(2, 3, WIDTH)


def guesses(tree, judges, table, states):
    guessers = Guessers(judges, lambda ids: table[ids], [table] * 3)
    best = lambda depth, logits, ids: logits  # noqa: E731
    return sequential_guesses(
        tree.levels, torch.tensor([5, 6]), Ahead(states, states @ table.T), guessers, best
    ).tolist()


@torch.no_grad()
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_each_node_is_the_choice_after_its_parent(tree, parts):
    judges, table, states = parts
    for b, found in enumerate(guesses(tree, *parts)):
        token = dict(zip(tree.nodes, [5 + b, *found], strict=True))
        for path in tree.nodes[1:]:
            state = states[b, len(path) - 1]
            moved = state + judges[len(path) - 1](table[token[path[:-1]]], state)
            assert token[path] == (moved @ table.T).argsort(descending=True)[path[-1]]


@torch.no_grad()
def test_only_a_heads_own_candidates_are_judged_again(parts, monkeypatch):
    _, table, states = parts
    monkeypatch.setattr(transitions, "NUM_CANDIDATES", 4)
    logits = states @ table.T
    for b, found in enumerate(guesses(TREES["chain"], *parts)):
        for depth, token in enumerate(found):
            assert token in logits[b, depth].topk(4).indices
    far = DraftTree(((0,), (9,)))  # beyond the candidates: the last of them
    assert len(guesses(far, *parts)[0]) == 2


@torch.no_grad()
def test_candidates_are_ranked_as_they_are_guessed(parts):
    judges, table, states = parts
    ranked = ranked_after(judges[0], table[[5, 6]], states[:, 0], states[:, 0] @ table.T, table)
    for b, found in enumerate(guesses(TREES["tree"], *parts)):
        assert ranked[b, :3].tolist() == found[:3]


@torch.no_grad()
def test_in_the_beginning_nothing_is_added():
    for model in (make_mtp_as_built(), make_sllm_as_built()):
        for judge in model.draft_transitions:
            assert not judge(
                torch.randn(2, judge.out_proj.out_features), torch.ones(2, judge.out_proj.out_features)
            ).any()
            assert judge.token_proj.weight.std() > 0.01


def make_mtp_as_built():
    model = make_mtp(draft_transitions=True)
    return type(model)(model.config)


def make_sllm_as_built():
    model = make_sllm(num_future_tokens=3, draft_transitions=True)
    return type(model)(model.config)
