"""Teachers of a vocabulary loss: token-level language models whose distributions a student learns beside the text.

M rows, M' of a chunk, m of a part of it, V vocabulary of the student, V' <= V ids that the teacher knows, K ids kept.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from lmbase.modeling.kept_window import KeptWindow
from lmbase.modeling.losses import CHUNK_ROWS, MOST_ROWS, SMALLEST
from lmbase.modeling.trunk import output_table, special_ids, trunk_of


@dataclass
class SparseTeacher:
    """The teacher's K most probable tokens of each row; all others are one bucket.

    The student is held to the bucket's probability, and shares it out as it likes. fp16 will do for the logs.
    """

    ids: Tensor  # (M, K) different from each other where weights are not 0
    log_probs: Tensor  # (M, K)
    weights: Tensor  # (M,) fp32, share of the teacher in a row's loss; 0: it says nothing

    @classmethod
    def of_rows(cls, ids: Tensor, log_probs: Tensor, weight: float) -> "SparseTeacher":
        """Rows as a cache gives them: -inf where the teacher says nothing."""
        return cls(ids, log_probs, weight * log_probs[:, 0].isfinite().float())

    def at(self, rows: Tensor | slice) -> "SparseTeacher":
        return SparseTeacher(self.ids[rows], self.log_probs[rows], self.weights[rows])

    chunk = at

    def blend(self, probs: Tensor, rows: slice, closed_id: int | None) -> Tensor:
        """As `losses.TaughtRows` says."""
        ids, weight = self.ids[rows].long(), self.weights[rows, None]
        taught = self.log_probs[rows].float().exp()  # (m, K)
        rest = (1 - taught.sum(-1, keepdim=True)).clamp(min=0)  # (m, 1)
        top = probs.gather(-1, ids)
        probs_closed = None if closed_id is None else probs[:, closed_id].clone()
        probs.scatter_(-1, ids, 0.0)
        open_top = top
        if closed_id is not None:
            taught = taught.masked_fill(ids == closed_id, 0.0)
            open_top = top.masked_fill(ids == closed_id, 0.0)
            probs[:, closed_id] = 0.0
        probs_rest = probs.sum(-1, keepdim=True)  # of all that is neither kept nor closed
        rest = rest.masked_fill(probs_rest == 0, 0.0)  # where all ids are kept, nothing but rounding is left
        total = (taught.sum(-1, keepdim=True) + rest).clamp(min=SMALLEST)  # 1 but for rounding and what is closed
        taught, rest = taught / total, rest / total
        scale = 1 / (probs_rest + open_top.sum(-1, keepdim=True)).clamp(min=SMALLEST)
        divergence = _divergence(taught, open_top * scale) + _divergence(rest, probs_rest * scale)
        bucket = rest / probs_rest.clamp(min=SMALLEST)
        probs.mul_(1 - weight + weight * (scale - bucket))
        probs.scatter_(-1, ids, (1 - weight) * top + weight * (open_top * scale - taught))
        if closed_id is not None and probs_closed is not None:
            probs[:, closed_id] = (1 - weight[:, 0]) * probs_closed
        return torch.where(self.weights[rows] > 0, divergence, 0.0)


@dataclass
class ExactTeacher:
    """The teacher's whole distribution, made chunk by chunk of its states."""

    hidden: Tensor  # (M, D')
    table: Tensor  # (V', D')
    weights: Tensor  # (M,) fp32
    states: Tensor | None = None  # (B, L+1, H) at the depth that was asked for, of all tokens and not these rows only

    def at(self, rows: Tensor) -> "ExactTeacher":
        return replace(self, hidden=self.hidden[rows], weights=self.weights[rows])

    def chunk(self, rows: slice) -> "_WholeRows":
        return _WholeRows(self.hidden[rows] @ self.table.T, self.weights[rows])


@dataclass
class _WholeRows:
    logits: Tensor  # (M', V')
    weights: Tensor  # (M',)

    def blend(self, probs: Tensor, rows: slice, closed_id: int | None) -> Tensor:
        """As `losses.TaughtRows` says."""
        logits, weight = self.logits[rows].float(), self.weights[rows, None]
        probs_closed: Tensor | None = None
        scale: Tensor | float = 1.0
        if closed_id is not None:
            if closed_id < logits.shape[1]:
                logits[:, closed_id] = float("-inf")
            probs_closed = probs[:, closed_id].clone()
            probs[:, closed_id] = 0.0
            scale = 1 / probs.sum(-1, keepdim=True).clamp(min=SMALLEST)
        taught = torch.softmax(logits, -1)  # (m, V')
        known = probs[:, : taught.shape[1]]
        divergence = _divergence(taught, known * scale)
        probs.mul_(1 - weight + weight * scale)
        known.sub_(weight * taught)
        if closed_id is not None and probs_closed is not None:
            probs[:, closed_id] = (1 - weight[:, 0]) * probs_closed
        return torch.where(self.weights[rows] > 0, divergence, 0.0)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Sum of p log(p / q) over the last dimension; q is taken for the smallest number of fp32 where it is less."""
    return torch.special.xlogy(teacher, teacher / student.clamp(min=SMALLEST)).sum(-1)


class OnlineTeacher:
    """A frozen model that reads what the student reads.

    It is no part of the student: neither saved nor trained nor copied with it.

    Args:
        lm: any token-level model.
        num_ids: how many ids its tokenizer has: those of a longer table stand for nothing.
        keep: what of a text it keeps; default: all.

    Attributes:
        depth: after so many blocks its states are told, too; default: nowhere. Not with `keep`.
    """

    def __init__(self, lm: PreTrainedModel, num_ids: int, keep: KeptWindow | None = None):
        self.keep = keep
        self.depth: int | None = None
        self.lm = lm.eval().requires_grad_(False)
        self.table = output_table(lm)[:num_ids]

    def __deepcopy__(self, memo: Any) -> "OnlineTeacher":
        return self

    @torch.no_grad()
    def of_rows(self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor, weights: Tensor) -> ExactTeacher:
        """What it says of some tokens of texts.

        Args:
            input_ids, attention_mask: (B, L) text tokens, padded on the right.
            mask: (B, L+1) which of the tokens, and of what follows the last, are asked for: M rows.
            weights: (M,) fp32.
        """
        if self.table.device != input_ids.device:
            self.lm.to(input_ids.device)
            self.table = output_table(self.lm)[: len(self.table)]
        read = F.pad(input_ids, (1, 0), value=special_ids(self.lm.config).opening)
        seen = F.pad(attention_mask, (1, 0), value=True).long()
        if self.keep is not None:
            hidden = self.keep.states(trunk_of(self.lm), read, seen.sum(1).tolist())
            return ExactTeacher(hidden[mask], self.table, weights)
        asked = {} if self.depth is None else {"output_hidden_states": True}
        found = trunk_of(self.lm)(read, attention_mask=seen, use_cache=False, **asked)
        states = None if self.depth is None else found.hidden_states[self.depth]
        return ExactTeacher(found.last_hidden_state[mask], self.table, weights, states)  # hidden (B,L+1,D')

    @torch.no_grad()
    def most_probable(self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """The `top` most probable ids of some tokens of texts and their log-probabilities, (M, K) each.

        Args: input_ids, attention_mask, mask: as for `of_rows`.
        """
        hidden = self.of_rows(input_ids, attention_mask, mask, torch.ones(1)).hidden
        chunks = hidden.split(CHUNK_ROWS.get(hidden.device.type, MOST_ROWS))
        found = [torch.log_softmax((rows @ self.table.T).float(), -1).topk(top) for rows in chunks]
        return torch.cat([chunk.indices for chunk in found]), torch.cat([chunk.values for chunk in found])


def weights_hash(lm: PreTrainedModel) -> str:
    """SHA-256 of a model's weights, wherever they were loaded from, and of the window that it keeps if it does."""
    window = [getattr(lm.config, name, None) for name in ("keep_window", "keep_ends")]
    found = hashlib.sha256(str(window).encode() if window[0] else b"")
    for name, weight in sorted(lm.state_dict().items()):
        found.update(f"{name} {tuple(weight.shape)}".encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
