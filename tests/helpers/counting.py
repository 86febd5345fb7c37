"""Multi-token models of which one knows what comes out: one that counts, one that always ranks alike."""

from functools import cache
from typing import cast

import torch
from tiny import make_mtp
from torch import nn

from multitoken import DraftTree, MultiTokenLM

TREE = DraftTree(((0,), (1,), (0, 0), (0, 1), (1, 0)))
PROMPTS = [[2, 10, 11, 12], [2, 30, 31, 32], [2, 50, 52, 54]]


def always_the_same(order: list[int]) -> MultiTokenLM:
    """Whatever it reads, every head ranks the tokens of `order` first, in this order."""
    model = make_mtp(own_unembeddings=True, opt=dict(vocab_size=16)).double()
    with torch.no_grad():
        norm = cast(nn.LayerNorm, model.final_layer_norm)
        norm.weight.zero_()
        norm.bias.fill_(1.0)
        for i in range(1, 4):
            model.unembedding(i).fill_(-1.0)
            for rank, token in enumerate(order):
                model.unembedding(i)[token] = 1.0 / (1 + rank)
    return model


def accept_everything(tree, draft_ids, chosen_ids):
    rows = [0]
    while tree.children[rows[-1]]:
        rows.append(tree.children[rows[-1]][0])
    return rows


@cache
def counter() -> MultiTokenLM:
    """A model that has learned to count, so that some guesses come true."""
    torch.manual_seed(0)
    model = make_mtp(opt=dict(vocab_size=64, max_position_embeddings=48)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        start = torch.randint(4, 64, (16, 1))
        ids = 4 + (start - 4 + torch.arange(12) * (1 + start % 2)) % 60
        model(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(16, dtype=torch.bool)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
