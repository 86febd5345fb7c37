"""What an SLLM's tokens and ends of sentences cost in training, with a teacher or without.

B texts, S sentences of one, T tokens of a sentence, N real sentences, L real tokens of all, M targets, K ids of a row.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lmbase.modeling.distillation import ExactTeacher, SparseTeacher
from lmbase.modeling.losses import Teacher, taught_loss, vocabulary_loss
from sllm.configuration_sllm import SLLMConfig
from sllm.end_flag import end_is_likeliest
from sllm.matched_states import num_compared
from sllm.sentences import Decoded
from sllm.unpredicted_ends import without_end


@dataclass
class TokenLoss:
    """
    Args:
        loss: () sum to train on. nats: () -log p of all targets. divergence: () KL to the teacher.
        correct: () targets that were the first choice; choices: what was; both without gradients only.
    """

    loss: Tensor
    nats: Tensor
    divergence: Tensor
    correct: Tensor
    choices: Tensor


@dataclass
class Taught:
    """What a teacher says of the L tokens of a batch, and of one row more, of which it says nothing."""

    teacher: Teacher  # of L+1 rows
    starts: Tensor  # (N,) tokens of the batch before each sentence
    lengths: Tensor  # (N,)

    @classmethod
    def of_batch(
        cls,
        model: Any,
        sentences: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        teacher_ids: Tensor | None = None,
        teacher_log_probs: Tensor | None = None,
        ask_teacher: Tensor | None = None,
    ) -> "Taught | None":
        """
        Args:
            input_ids, attention_mask: (B, S, T).
            teacher_ids, teacher_log_probs: (B, S, T, K) its most probable ids at each token.
            ask_teacher: (B,) present where the model's online teacher is to be asked.
        """
        lengths = sentences.mask.sum(1)
        teacher: Teacher
        if teacher_ids is not None and teacher_log_probs is not None:
            ids = F.pad(teacher_ids[attention_mask], (0, 0, 0, 1))  # (L+1,K)
            log_probs = F.pad(teacher_log_probs[attention_mask], (0, 0, 0, 1), value=float("-inf"))
            teacher = SparseTeacher.of_rows(ids, log_probs, model.teacher_weight)
        elif ask_teacher is not None:
            teacher = _asked(model, input_ids, attention_mask)
        else:
            return None
        return cls(teacher, lengths.cumsum(0) - lengths, lengths)

    def rows(self, decoded: Decoded, numbers: Tensor) -> Tensor:
        """(M,) row of each target of some sentences."""
        number = numbers[decoded.index]
        place = torch.arange(decoded.cut.mask.shape[1], device=number.device)  # (T+1,)
        row = torch.where(place < self.lengths[number, None], self.starts[number, None] + place, self.lengths.sum())
        return row[decoded.cut.mask]

    @property
    def states(self) -> Tensor | None:
        """(B, L'+1, H) of a model at the depth where it is matched; None of others."""
        return getattr(self.teacher, "states", None)


def _asked(model: Any, input_ids: Tensor, attention_mask: Tensor) -> ExactTeacher:
    """The model's online teacher about texts, whose sentences it reads one after another."""
    counts = attention_mask.sum((1, 2))  # (B,)
    mask = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]  # (B,L')
    flat = torch.zeros(mask.shape, dtype=input_ids.dtype, device=mask.device)
    flat = flat.masked_scatter(mask, input_ids[attention_mask])
    wanted = F.pad(mask, (0, 1))
    weights = torch.full((int(counts.sum()),), model.teacher_weight, device=mask.device)
    found = model.online_teacher.of_rows(flat, mask, wanted, weights)
    return replace(found, hidden=F.pad(found.hidden, (0, 0, 0, 1)), weights=F.pad(found.weights, (0, 1)))


def loss_weights(model: Any) -> dict[str, float]:
    """What each loss of an SLLM counts in the objective."""
    weights = {"token": 1.0, "stop": model.config.stop_weight}
    if model.online_teacher is not None or model.teacher_weight:
        weights |= {"token": 0.0, "distilled": 1.0, "teacher": 0.0}
    if model.state_weight:
        weights["states"] = model.state_weight
    names = draft_names(model.config)
    return weights | {"drafts": 1.0, **dict.fromkeys(names, 0.0)} if names else weights


def draft_names(config: SLLMConfig) -> list[str]:
    """Losses of drafting heads."""
    kinds = ("head", "after") if config.draft_transitions else ("head",)
    return [f"{kind}_{i}" for kind in kinds for i in range(2, config.num_future_tokens + 1)]


def loss_counts(
    model: Any, attention_mask: Tensor, cut_short: Tensor | None = None, continues: Tensor | None = None, **given: Any
) -> dict[str, Tensor]:
    """Sums of tokens and of flags are divided by the number of target tokens: their weighted sum is -log p of the text
    per token."""
    lengths = attention_mask.sum(-1)  # (B, S)
    targets = (lengths + 1).clamp(max=model.config.max_sentence_tokens) * (lengths > 0)
    cut_short = without_end(model.config, lengths > 0, continues, cut_short)
    if cut_short is not None:
        targets = torch.where(cut_short, lengths, targets)
    tokens = targets.sum()
    counts = {"token": tokens, "stop": tokens}
    if {"teacher_ids", "ask_teacher"} & set(given):
        counts |= {"distilled": tokens, "teacher": lengths.sum()}
    if model.state_weight and "ask_teacher" in given:
        counts["states"] = num_compared(attention_mask)
    if not (names := draft_names(model.config)):
        return counts
    heads = {name: (targets - int(name.split("_")[1]) + 1).clamp(min=0).sum() for name in names}
    return counts | {"drafts": tokens, **heads}


def token_loss(model: Any, hidden: Tensor, targets: Tensor, first: Tensor, *, teacher: Teacher | None) -> TokenLoss:
    """
    Args:
        hidden: (M, D). targets: (M,) ids, the end mark where a sentence ends.
        first: (M,) bool, where a sentence begins and so cannot end.
        teacher: of the M rows.
    """
    end = model.config.eos_token_id
    tokens = torch.ones_like(first) if model.end_head is None else targets != end
    closed = first if model.end_head is None else torch.ones_like(first)[tokens]
    if teacher is not None:
        teacher = teacher if model.end_head is None else teacher.at(tokens.nonzero()[:, 0])
        result = taught_loss(
            hidden[tokens], model.output_table, targets[tokens], teacher, closed_rows=closed, closed_id=end
        )
        divergence = result.row_divergence.sum()
    else:
        gamma = model.config.autoencoder.focal_gamma if model.training else 0.0
        result = vocabulary_loss(
            hidden[tokens], model.output_table, targets[tokens], closed_rows=closed, closed_id=end, focal_gamma=gamma
        )
        divergence = result.loss.detach() * 0
    nats, correct = result.row_nats.sum(), result.row_correct
    if model.end_head is None:
        return TokenLoss(result.loss, nats, divergence, correct.sum(), result.row_choice)
    flags, ends = model.end_head(hidden).squeeze(-1).float(), ~tokens
    of_flags = (F.binary_cross_entropy_with_logits(flags, ends.float(), reduction="none") * ~first).sum()
    foreseen = correct.sum()
    if len(correct):  # without gradients: the end is a rival of the likeliest token, and it of the end
        behind = result.row_nats + F.softplus(flags[tokens]) > F.softplus(-flags[tokens])
        foreseen = (correct & (first[tokens] | ~behind)).sum()
        foreseen = foreseen + end_is_likeliest(hidden[ends], flags[ends], model.output_table, end).sum()
    return TokenLoss(result.loss + of_flags, nats + of_flags, divergence, foreseen, targets[:0])
