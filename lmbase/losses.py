"""Vocabulary losses that never hold all logits at once.

M targets, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_ROWS = 2048  # logits alive at a time: CHUNK_ROWS x V


@dataclass
class VocabularyLoss:
    """What predicting M tokens cost."""

    loss: Tensor  # () sum to train on: equals `nats` unless focal
    nats: Tensor  # () sum of -log p, detached
    correct: Tensor  # () how many targets were the most probable token; counted without gradients only


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over M of a (focal) cross-entropy of `hidden @ table.T`, gradients made chunk by chunk in the forward pass.

    With p the target's probability, the focal loss is (1 - p)^gamma * -log p (arXiv 1708.02002); its gradient with
    respect to the logits is the plain one's times a factor of each row, so both share one formula.
    """

    @staticmethod
    def forward(ctx, hidden, table, targets, closed_rows, closed_id, gamma):
        dtype = torch.get_autocast_dtype(hidden.device.type) if _autocasting(hidden) else hidden.dtype
        weights, states = table.detach().to(dtype), hidden.detach().to(dtype)
        need_hidden, need_table = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(states) if need_hidden else None
        grad_table = torch.zeros_like(table) if need_table else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        nats = loss.clone()  # two outputs of a Function must be two tensors
        correct = torch.zeros((), dtype=torch.long, device=hidden.device)
        for start in range(0, len(targets), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            target = targets[rows, None]
            logits = (states[rows] @ weights.T).float()  # (M', V)
            logits[:, closed_id].masked_fill_(closed_rows[rows], float("-inf"))
            probs = logits.softmax(-1)
            p = probs.gather(-1, target)  # (M', 1)
            row_nats = -p.clamp(min=torch.finfo(p.dtype).tiny).log()
            nats = nats + row_nats.sum()
            loss = loss + ((1 - p) ** gamma * row_nats).sum()
            if need_hidden or need_table:
                factor = (1 - p) ** gamma
                if gamma:
                    # the clamp: where p rounds to 1, the product is 0 although (1 - p) ** (gamma - 1) has a pole
                    power = (1 - p).clamp(min=torch.finfo(p.dtype).tiny) ** (gamma - 1)
                    factor = factor + gamma * power * p * row_nats
                grad_logits = probs.mul_(factor).scatter_add_(-1, target, -factor).to(dtype)  # (M', V)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad_logits @ weights
                if grad_table is not None:
                    grad_table += grad_logits.T @ states[rows]
            else:  # a look at every logit more, so only where nothing is trained
                correct = correct + (logits.argmax(-1, keepdim=True) == target).sum()
        ctx.grads = (grad_hidden.to(hidden.dtype) if grad_hidden is not None else None, grad_table)
        ctx.mark_non_differentiable(nats, correct)
        return loss, nats, correct

    @staticmethod
    def backward(ctx, grad_loss, *_):
        grad_hidden, grad_table = ctx.grads
        ctx.grads = None
        grad_hidden = grad_hidden * grad_loss.to(grad_hidden.dtype) if grad_hidden is not None else None
        grad_table = grad_table * grad_loss if grad_table is not None else None
        return grad_hidden, grad_table, None, None, None, None


def vocabulary_loss(
    hidden: Tensor, table: Tensor, targets: Tensor, *, closed_rows: Tensor, closed_id: int, focal_gamma: float = 0.0
) -> VocabularyLoss:
    """Summed loss of `targets` under softmax(hidden @ table.T).

    Args:
        hidden: (M, D). table: (V, D). targets: (M,) token ids.
        closed_rows: (M,) bool, rows at which token `closed_id` has probability 0 (no empty sentence).
        focal_gamma: 0 is cross-entropy; the published SentenceVAE uses 2.
    """
    if not torch.is_grad_enabled():  # what the function sees as needing a gradient, under no_grad, too
        hidden, table = hidden.detach(), table.detach()
    loss, nats, correct = _LinearCrossEntropy.apply(hidden, table, targets, closed_rows, closed_id, focal_gamma)
    return VocabularyLoss(loss, nats, correct)


def token_nats(hidden: Tensor, table: Tensor, targets: Tensor, *, closed_rows: Tensor, closed_id: int) -> Tensor:
    """-log p of each target in fp32, (M,); arguments as for `vocabulary_loss`. Differentiable."""
    parts = [hidden.new_zeros(0, dtype=torch.float32)]
    for start in range(0, len(targets), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        log_probs = _log_probs(hidden[rows], table, closed_rows[rows], closed_id)
        parts.append(-log_probs.gather(-1, targets[rows, None]).squeeze(-1))
    return torch.cat(parts)


def _log_probs(hidden: Tensor, table: Tensor, closed_rows: Tensor, closed_id: int) -> Tensor:
    logits = (hidden @ table.T).float()  # (M, V)
    return close_token(logits, closed_rows, closed_id).log_softmax(-1)


def close_token(logits: Tensor, closed_rows: Tensor, closed_id: int) -> Tensor:
    """Give token `closed_id` probability 0 in the rows (M,) where `closed_rows` is True; logits is (M, V)."""
    column = logits[:, closed_id].masked_fill(closed_rows, float("-inf"))
    index = torch.full((len(logits), 1), closed_id, device=logits.device)
    return logits.scatter(-1, index, column[:, None])


def _autocasting(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)
