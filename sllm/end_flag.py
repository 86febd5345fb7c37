"""The end of a sentence as a flag of its own, before the vocabulary: p(end), and (1 - p(end)) p(token).

M rows that predict, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lmbase.modeling.losses import signed_nats, token_nats, vocabulary_loss


def flag_nats(
    hidden: Tensor, flags: Tensor, table: Tensor, targets: Tensor, first: Tensor, end: int, measure: Any
) -> Tensor:
    """-log p (M,) of each target.

    Args:
        hidden: (M, D). table: (V, D). targets: (M,) token ids, `end` where a sentence ends.
        flags: (M,) log-odds that the sentence ends there.
        first: (M,) bool, where a sentence begins and so cannot end.
        measure: `token_nats`, or `signed_nats`, whose signs say which were the first choice.
    """
    ends = targets == end
    closed = torch.ones_like(ends)
    flags = flags.float()
    goes_on = F.softplus(flags).masked_fill(first, 0.0)  # -log(1 - p(end))
    ending = F.softplus(-flags)  # -log p(end)
    tokens = measure(hidden[~ends], table, targets[~ends], closed_rows=closed[~ends], closed_id=end)
    if measure is not signed_nats:
        return torch.where(ends, ending, goes_on.masked_scatter(~ends, tokens + goes_on[~ends]))
    total = tokens.abs() + goes_on[~ends]
    likeliest = tokens.signbit() & ((total <= ending[~ends]) | first[~ends])
    found = ending.masked_scatter(~ends, torch.where(likeliest, -total, total))
    first_choice = end_is_likeliest(hidden[ends], flags[ends], table, end)
    return found.masked_scatter(ends, torch.where(first_choice, -ending[ends], ending[ends]))


def end_is_likeliest(hidden: Tensor, flags: Tensor, table: Tensor, end: int) -> Tensor:
    """(M,) bool: where even the likeliest token falls behind the end, which may come there."""
    hidden, table, flags = hidden.detach(), table.detach(), flags.detach().float()
    closed = torch.ones_like(flags, dtype=torch.bool)
    anything = torch.zeros_like(flags, dtype=torch.long)
    rivals = vocabulary_loss(hidden, table, anything, closed_rows=closed, closed_id=end).row_choice
    best = token_nats(hidden, table, rivals, closed_rows=closed, closed_id=end)
    return F.softplus(-flags) < best + F.softplus(flags)


def joint_logits(logits: Tensor, flags: Tensor, end: int) -> Tensor:
    """Log-probabilities (..., V) of tokens and of the end, from logits of tokens (..., V) and log-odds (...)."""
    logits = logits.float()
    logits[..., end] = -torch.inf
    flags = flags.float()[..., None]
    joint = logits.log_softmax(-1) + F.logsigmoid(-flags)
    joint[..., end] = F.logsigmoid(flags[..., 0])
    return joint


def ends_for_sure(flags: Tensor) -> bool:
    """Whether in all rows the end is likelier than any token can be, given log-odds (...)."""
    flags = flags.float()
    return bool((F.logsigmoid(flags) > F.logsigmoid(-flags)).all())


def only_end(flags: Tensor, vocab_size: int, end: int) -> Tensor:
    """(..., V) as of `joint_logits` where an end is certain, without logits of tokens."""
    logits = flags.new_full((*flags.shape, vocab_size), -torch.inf, dtype=torch.float32)
    logits[..., end] = F.logsigmoid(flags.float())
    return logits
