"""Vocabulary losses that never hold all logits at once.

M targets, D width, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lmbase.modeling.devices import kernels_of

# Logits alive at a time: so many rows. On a CPU fewer are faster, as long as the gradient of the table is not added to
# too often; a GPU wants large products.
CHUNK_ROWS = {"cpu": 512}
MOST_ROWS = 2048
PART_ROWS = {"cpu": 32}  # rows whose probabilities stay in a processor's cache; a GPU takes the chunk at once
SCORED_ROWS = 256  # the same without gradients to gather, where fewer stay in a processor's cache: 1.4 times faster
SMALLEST = torch.finfo(torch.float32).tiny  # probability that softmax still tells from 0


class TaughtRows(Protocol):
    """What a teacher says of M' rows."""

    def blend(self, probs: Tensor, rows: slice, closed_id: int | None) -> Tensor:
        """Turn the student's probabilities of some rows into gradients, in place, and say how far it is from the
        teacher.

        Args:
            probs: (m, V) fp32, student's probabilities q; becomes (1 - w) q + w dKL/dlogits.
            rows: which of the M' rows they are.
            closed_id: a token that both are compared without.

        Returns:
            KL(teacher || student) of each row in nats, (m,); 0 where the teacher says nothing.
        """
        ...


class Teacher(Protocol):
    """A teacher of the M rows of a loss (`lmbase.modeling.distillation`)."""

    weights: Tensor  # (M,) w: its share in the loss of each row, 0 where it says nothing

    def chunk(self, rows: slice) -> TaughtRows: ...

    def at(self, rows: Tensor) -> "Teacher":
        """What it says of some of its rows, by their numbers (M',)."""
        ...


@dataclass
class VocabularyLoss:
    """What predicting M tokens cost."""

    loss: Tensor  # () sum to train on: that of `row_nats` unless focal, weighted or taught
    row_nats: Tensor  # (M,) -log p of each target, detached
    row_divergence: Tensor  # (M,) KL(teacher || student) in nats, detached; without a teacher empty
    row_choice: Tensor  # (M,) the most probable token; without gradients only, else empty
    row_correct: Tensor  # the same length: whether it was the target


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over M of a (focal) cross-entropy of `hidden @ table.T`, gradients made chunk by chunk in the forward pass.

    With p the target's probability, the focal loss is (1 - p)^gamma * -log p (arXiv 1708.02002); its gradient with
    respect to the logits is the plain one's times a factor of each row, so both share one formula. With a teacher, a
    row's loss is (1 - w) * -log p + w * KL(teacher || student).
    """

    @staticmethod
    def forward(ctx, hidden, table, targets, closed, gamma, row_weights, teacher):
        closed_rows, closed_id = closed
        dtype = torch.get_autocast_dtype(hidden.device.type) if _autocasting(hidden) else hidden.dtype
        matrix, states = table.detach().to(dtype), hidden.detach().to(dtype)
        need_hidden, need_table = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(states) if need_hidden else None
        grad_table = torch.zeros_like(table) if need_table else None
        row_nats = hidden.new_empty(len(targets), dtype=torch.float32)
        row_divergence = row_nats.new_empty(len(targets) if teacher else 0)
        row_choice = targets.new_empty(0 if need_hidden or need_table else len(targets))
        size = max(1, min(CHUNK_ROWS.get(kernels_of(hidden), MOST_ROWS), len(targets)))
        part = PART_ROWS.get(kernels_of(hidden), size)
        # Two matrices for all chunks: making new ones each time costs a CPU a quarter of the loss.
        all_logits = hidden.new_empty(size, len(table), dtype=dtype)
        all_probs = hidden.new_empty(min(part, size), len(table), dtype=torch.float32)
        for start in range(0, len(targets), size):
            rows = slice(start, min(start + size, len(targets)))
            logits = torch.mm(states[rows], matrix.T, out=all_logits[: rows.stop - start])  # (M', V)
            taught = teacher.chunk(rows) if teacher else None
            for first in range(start, rows.stop, part):
                some = slice(first, min(first + part, rows.stop))
                mine = logits[first - start : some.stop - start]  # (m, V)
                target = targets[some, None]
                if closed_rows is not None:
                    mine[:, closed_id].masked_fill_(closed_rows[some], float("-inf"))
                if not (need_hidden or need_table):  # a look at every logit more, so only where nothing is trained
                    row_choice[some] = mine.argmax(-1)
                probs = all_probs[: some.stop - first].copy_(mine)
                torch.softmax(probs, -1, out=probs)
                p = probs.gather(-1, target)  # (m, 1)
                row_nats[some] = -p[:, 0].clamp(min=SMALLEST).log()
                factor = _focal_factor(p, gamma) * (1.0 if row_weights is None else row_weights[some, None])
                if taught is not None:
                    local = slice(first - start, some.stop - start)
                    row_divergence[some] = taught.blend(probs, local, None if closed_rows is None else closed_id)
                if need_hidden or need_table:
                    if isinstance(factor, Tensor):
                        probs.mul_(factor)
                    share = factor if teacher is None else factor * (1 - teacher.weights[some, None])
                    mine.copy_(probs.scatter_add_(-1, target, -share * torch.ones_like(p)))  # gradients of the logits
            if grad_hidden is not None:
                torch.mm(logits, matrix, out=grad_hidden[rows])
            if grad_table is not None:
                grad_table += logits.T @ states[rows]
        # Probabilities too small for fp32: exact after all, at one look for all rows; their gradients already are.
        rare = (row_nats >= -math.log(SMALLEST) - 1e-3).nonzero()[:, 0]
        if len(rare):
            shut = None if closed_rows is None else closed_rows[rare]
            row_nats[rare] = _token_nats_in_place(states[rare], matrix, targets[rare], shut, closed_id)
        row_loss = (-torch.expm1(-row_nats)) ** gamma * row_nats if gamma else row_nats
        if teacher is not None:
            row_loss = torch.lerp(row_loss, row_divergence, teacher.weights)
        ctx.grads = (grad_hidden.to(hidden.dtype) if grad_hidden is not None else None, grad_table)
        ctx.mark_non_differentiable(row_nats, row_choice, row_divergence)
        loss = row_loss.sum() if row_weights is None else (row_weights * row_loss).sum()
        return loss, row_nats, row_choice, row_divergence

    @staticmethod
    def backward(ctx, grad_loss, *_):
        grad_hidden, grad_table = ctx.grads
        ctx.grads = None
        grad_hidden = grad_hidden.mul_(grad_loss) if grad_hidden is not None else None
        grad_table = grad_table.mul_(grad_loss) if grad_table is not None else None
        return grad_hidden, grad_table, *[None] * 5


def _focal_factor(p: Tensor, gamma: float) -> Tensor | float:
    """What a row's gradient is of the plain cross-entropy's, with p (m, 1) the target's probability."""
    if not gamma:
        return 1.0
    # the clamp: where p rounds to 1, the product is 0 although (1 - p) ** (gamma - 1) has a pole
    power = (1 - p).clamp(min=SMALLEST) ** (gamma - 1)
    return (1 - p) ** gamma - gamma * power * p * p.clamp(min=SMALLEST).log()


def vocabulary_loss(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    closed_rows: Tensor | None = None,
    closed_id: int = 0,
    focal_gamma: float = 0.0,
    row_weights: Tensor | None = None,
) -> VocabularyLoss:
    """Summed loss of `targets` under softmax(hidden @ table.T).

    Args:
        hidden: (M, D). table: (V, D). targets: (M,) token ids.
        closed_rows: (M,) bool, rows at which token `closed_id` has probability 0 (no empty sentence).
        focal_gamma: 0 is cross-entropy; the published SentenceVAE uses 2.
        row_weights: (M,) factors of each row's loss; default: all 1.
    """
    return _loss(hidden, table, targets, (closed_rows, closed_id), focal_gamma, row_weights, None)


def taught_loss(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    teacher: Teacher,
    *,
    closed_rows: Tensor | None = None,
    closed_id: int = 0,
    row_weights: Tensor | None = None,
) -> VocabularyLoss:
    """The same with a teacher, whose distributions are learned, too: (1 - w) * -log p + w * KL(teacher || student).

    Args:
        teacher: of the M rows, with w of each.
        closed_rows, closed_id: as there; then KL compares all rows without `closed_id`, a sentence's end mark, which
            the teacher does not know.
    """
    return _loss(hidden, table, targets, (closed_rows, closed_id), 0.0, row_weights, teacher)


def _loss(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    closed: tuple[Tensor | None, int],
    gamma: float,
    row_weights: Tensor | None,
    teacher: Teacher | None,
) -> VocabularyLoss:
    if not torch.is_grad_enabled():  # what the function sees as needing a gradient, under no_grad, too
        hidden, table = hidden.detach(), table.detach()
    loss, row_nats, row_choice, row_divergence = _LinearCrossEntropy.apply(
        hidden, table, targets, closed, gamma, row_weights, teacher
    )
    return VocabularyLoss(loss, row_nats, row_divergence, row_choice, row_choice == targets[: len(row_choice)])


def token_nats(
    hidden: Tensor, table: Tensor, targets: Tensor, *, closed_rows: Tensor | None = None, closed_id: int = 0
) -> Tensor:
    """-log p of each target in fp32, (M,); arguments as for `vocabulary_loss`. Differentiable."""
    if not torch.is_grad_enabled() and hidden.dtype == table.dtype:  # under autocast they may differ
        return _token_nats_in_place(hidden, table, targets, closed_rows, closed_id)
    parts = [hidden.new_zeros(0, dtype=torch.float32)]
    for start in range(0, len(targets), SCORED_ROWS):
        rows = slice(start, start + SCORED_ROWS)
        logits = (hidden[rows] @ table.T).float()  # (M', V)
        if closed_rows is not None:
            logits = close_token(logits, closed_rows[rows], closed_id)
        parts.append(-logits.log_softmax(-1).gather(-1, targets[rows, None]).squeeze(-1))
    return torch.cat(parts)


def signed_nats(
    hidden: Tensor, table: Tensor, targets: Tensor, *, closed_rows: Tensor | None = None, closed_id: int = 0
) -> Tensor:
    """What `token_nats` gives, below zero (or -0.0) where the target is the most probable token. Without gradients."""
    found = vocabulary_loss(hidden.detach(), table.detach(), targets, closed_rows=closed_rows, closed_id=closed_id)
    nats = found.row_nats.abs()  # that of a certain target is -0.0
    return torch.where(found.row_correct, -nats, nats)


def _token_nats_in_place(
    hidden: Tensor, table: Tensor, targets: Tensor, closed_rows: Tensor | None, closed_id: int
) -> Tensor:
    """The same numbers, all chunks in one matrix: new ones for each cost a CPU a tenth of the time."""
    nats = hidden.new_empty(len(targets), dtype=torch.float32)
    all_logits = hidden.new_empty(min(SCORED_ROWS, len(targets)), len(table))
    for start in range(0, len(targets), SCORED_ROWS):
        rows = slice(start, min(start + SCORED_ROWS, len(targets)))
        product = torch.mm(hidden[rows], table.T, out=all_logits[: rows.stop - start])
        logits = product.float()  # (M', V)
        if closed_rows is not None:
            logits[:, closed_id].masked_fill_(closed_rows[rows], float("-inf"))
        torch.log_softmax(logits, -1, out=logits)
        nats[rows] = -logits.gather(-1, targets[rows, None]).squeeze(-1)
    return nats


def close_token(logits: Tensor, closed_rows: Tensor, closed_id: int) -> Tensor:
    """Give token `closed_id` probability 0 in the rows (M,) where `closed_rows` is True; logits is (M, V)."""
    column = logits[:, closed_id].masked_fill(closed_rows, float("-inf"))
    index = torch.full((len(logits), 1), closed_id, device=logits.device)
    return logits.scatter(-1, index, column[:, None])


def _autocasting(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)
