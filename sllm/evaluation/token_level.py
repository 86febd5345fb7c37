"""What is asked of models that predict token after token: the audit's two ways of scoring a text, nats of each head.

L tokens.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lmbase.modeling.cache import CACHE_KEY, RowCache
from lmbase.modeling.causality import AuditReport, audit_tokens, other_ids
from lmbase.modeling.trunk import special_ids
from lmbase.text.padding import pad_tokens
from lmbase.text.windows import training_windows
from multitoken import MultiTokenLM


def audit_ids(
    scorer: Any, step_nats: Callable[[list[int]], Tensor], ids: list[int], num_ids: int, opening: int | None = None
) -> AuditReport:
    """The causality audit on the ids of a text.

    Args:
        scorer: scores whole windows, see `lmbase.modeling.token_lm.TokenScorer`; it has `ids`, too.
        step_nats: nats (L,) of ids that are read one by one with a cache, as the model reads what it writes.
        num_ids: tokens that others are replaced by are below this.
        opening: tokens to audit at every place, those behind them by samples; default: all.
    """
    device = next(scorer.parameters()).device

    @torch.no_grad()
    def nats(*texts: list[int]) -> Tensor:
        """Of the middle one of texts that are scored in one batch."""
        input_ids, mask = (t.to(device) for t in pad_tokens(texts, scorer.ids.pad))
        ends = torch.zeros(len(texts), dtype=torch.bool, device=device)
        return scorer.nats(input_ids, mask, ends)[len(texts) // 2, : len(texts[len(texts) // 2])]

    report = audit_tokens(nats, step_nats, ids, num_ids, opening)
    if ids:
        other = other_ids(ids, num_ids)
        for i, (a, b) in enumerate(zip(nats(ids, ids, ids), nats(other, ids, other), strict=True)):
            report.check(torch.equal(a, b), f"changing the texts beside it moved the score of token {i + 1}")
    return report


@torch.no_grad()
def lm_step_nats(lm: PreTrainedModel, ids: list[int]) -> Tensor:
    """Nats (L,) of ids given one by one to a language model of Transformers with its cache."""
    cache, nats = DynamicCache(config=lm.config), []
    for read, target in pairwise([special_ids(lm.config).opening, *ids]):
        output = lm(torch.tensor([[read]], device=lm.device), use_cache=True, **{CACHE_KEY: cache})
        nats.append(-output.logits[0, -1].float().log_softmax(-1)[target])
    return torch.stack(nats)


@torch.no_grad()
def head_step_nats(model: MultiTokenLM, ids: list[int]) -> Tensor:
    """The same for head 1 of a multi-token model."""
    cache, nats = RowCache(1, len(ids), model.device), []
    alone = torch.ones(1, 1, dtype=torch.bool, device=model.device)
    for place, (read, target) in enumerate(pairwise([model.ids.opening, *ids])):
        at = torch.tensor([[place]], device=model.device)
        _, states = model.step(torch.tensor([[read]], device=model.device), at, alone, cache)
        cache.keep([[0]])
        logits = model.finish(states[0][0, 0]) @ model.unembedding(1).T
        nats.append(-logits.float().log_softmax(-1)[target])
    return torch.stack(nats)


@torch.no_grad()
def nats_of_heads(
    model: MultiTokenLM, documents: Sequence[list[int]], window: int, batch_size: int = 4
) -> list[float | None]:
    """Mean nats per target of each head, over windows that do not overlap; None where none is long enough."""
    pieces = [(ids[a:b], b == len(ids)) for ids in documents for a, b in training_windows(len(ids), window)]
    pieces.sort(key=lambda piece: len(piece[0]))
    sums, counts = np.zeros(len(model.heads)), np.zeros(len(model.heads))
    for start in range(0, len(pieces), batch_size):
        rows, ends = zip(*pieces[start : start + batch_size], strict=True)
        ids, mask = pad_tokens(rows, model.ids.pad)
        batch = (ids.to(model.device), mask.to(model.device), torch.tensor(ends, device=model.device))
        sums += [float(nats.sum(dtype=torch.float64)) for nats in model.nats_by_head(*batch)]
        found = model.loss_counts(*batch)
        counts += [float(found["token" if i == 1 else f"head_{i}"]) for i in range(1, len(counts) + 1)]
    return [total / count if count else None for total, count in zip(sums.tolist(), counts.tolist(), strict=True)]


def flops_of_heads(model: MultiTokenLM, num_tokens: int, window: int) -> dict[str, float]:
    """FLOPs of a forward pass of head 1, by formula, and what the further heads add."""
    one, every = (model.flops(num_tokens, window, heads) for heads in (1, None))
    table = 2.0 * num_tokens * model.unembedding(1).numel()
    return {"trunk": one - table, "vocabulary": table, "drafts": every - one}
