"""Small multi-token models that have learned to count, so that some guesses come true; and ways to write with them."""

from functools import cache

import torch
from tiny import make_mtp

from multitoken import MultiTokenLM
from multitoken.heads import HEAD_KINDS

TREE = ((0,), (1,), (2,), (0, 0), (0, 1), (1, 0))
PROMPTS = [[2, 10, 11, 12], [2], [2, 30, 31, 32, 33, 34, 35], [2, 50, 51]]
KINDS = [*HEAD_KINDS, "after", "own after"]  # with transitions, and with vocabulary matrices of their own, too


@cache
def trained_heads(kind: str = "parallel", steps: int = 60) -> MultiTokenLM:
    """Trained once in a process, whichever files test it: leave it as it is."""
    torch.manual_seed(0)
    options: dict = dict(head_kind=kind)
    if kind.endswith("after"):
        options = dict(draft_transitions=True, own_unembeddings=kind.startswith("own"))
    model = make_mtp(opt=dict(vocab_size=64, max_position_embeddings=48), **options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        start = torch.randint(4, 64, (16, 1))
        ids = 4 + (start - 4 + torch.arange(12) * (1 + start % 2)) % 60
        ends = torch.rand(16) < 0.3
        model(ids, torch.ones_like(ids, dtype=torch.bool), ends).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().double()


def padded(prompts: list[list[int]]) -> torch.Tensor:
    width = max(map(len, prompts))
    return torch.tensor([[1] * (width - len(p)) + p for p in prompts])


def new_ids(model: MultiTokenLM, prompt: list[int], **options):
    output = model.generate(torch.tensor([prompt]), **options)
    return output.sequences[0, len(prompt) :].tolist(), output
