"""Token-level language models: what an SLLM is compared with, and what every model here is scored like.

B texts or windows, L tokens, D width, V vocabulary.

    </s> x1 .. xL (B,L+1) -> trunk -> (B,L+1,D) -> vocabulary: position t predicts x_{t+1}, the last one </s>
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import ModelOutput

from lmbase.modeling.distillation import OnlineTeacher, SparseTeacher
from lmbase.modeling.flops import attention_flops, linear_flops
from lmbase.modeling.inference import inference
from lmbase.modeling.kept_window import KeptWindow
from lmbase.modeling.labels import NO_LABEL, check_row_flags
from lmbase.modeling.losses import Teacher, taught_loss, token_nats, vocabulary_loss
from lmbase.modeling.trunk import SpecialIds, attention_width, output_table, special_ids, trunk_of
from lmbase.text.codec import codec_of
from lmbase.text.padding import pad_tokens, right_padded
from lmbase.text.texts import text_list
from lmbase.text.windows import Window, windows


@dataclass
class Shifted:
    """What is read and what is predicted of B windows, cut by one index so that they cannot drift apart."""

    input_ids: Tensor  # (B, L+1) </s> x1 .. xL
    targets: Tensor  # (B, L+1) x1 .. xL and, where a window holds its text's end, </s>
    num_targets: Tensor  # (B, 1)
    labelled: Tensor | None = None  # (B, L) bool, which of the targets count; default: all
    attention_mask: Tensor | None = None  # (B, L) where padding may stand on the left; default: it does not

    def of_head(self, i: int, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Targets of head i (B, L+1) and where there are any: position t predicts the i-th token after it.

        Args: first: (B,) targets before these are not wanted; default: 0.
        """
        index = torch.arange(self.targets.shape[1], device=self.targets.device)[None]  # (1,L+1)
        mask = index + i - 1 < self.num_targets
        if self.labelled is not None:
            mask &= self.labelled.roll(1 - i, dims=1)
        if self.attention_mask is not None:  # padding on the left says nothing of the tokens behind it
            mask &= self.attention_mask.bool()
        if first is not None:
            mask &= index >= first[:, None]
        return self.targets.roll(1 - i, dims=1), mask


def shift(input_ids: Tensor, attention_mask: Tensor, ends: Tensor, ids: SpecialIds) -> Shifted:
    """Shift windows against themselves.

    Args:
        input_ids, attention_mask: (B, L) text tokens, padded on the right.
        ends: (B,) True where the window holds its text's end.

    Raises:
        ValueError: padding on the left.
    """
    lengths = right_padded(attention_mask).sum(1, keepdim=True)  # (B,1)
    index = torch.arange(input_ids.shape[1] + 1, device=input_ids.device)[None]  # (1,L+1)
    targets = torch.where(index == lengths, ids.end, F.pad(input_ids, (0, 1)))
    return Shifted(F.pad(input_ids, (1, 0), value=ids.opening), targets, lengths + ends[:, None])


def shift_rows(
    input_ids: Tensor, attention_mask: Tensor | None, ends: Tensor | None, labels: Tensor | None, ids: SpecialIds
) -> Shifted | None:
    """What a `forward` learns: windows whose ends are told, or rows with labels; None of rows that are only read.

    Raises:
        ValueError: both, or ends without a mask or of other rows.
    """
    if ends is None:
        return None if labels is None else shift_labels(input_ids, attention_mask, labels)
    check_row_flags("ends", ends, input_ids)
    if labels is not None or attention_mask is None:
        raise ValueError(
            "ends tell where texts of windows end, whose tokens are all learnt: give them with an attention_mask and "
            "without labels; or give labels, and </s> in the ids, without ends."
        )
    return shift(input_ids, attention_mask, ends, ids)


def shift_labels(input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor) -> Shifted:
    """Rows as Transformers' language models are trained on them: read as they are, position t predicts label t+1.

    Args:
        input_ids, labels: (B, L), NO_LABEL where nothing is predicted.
        attention_mask: (B, L), padding on the left or right; default: there is none.
    """
    targets = torch.where(labels == NO_LABEL, input_ids, labels).roll(-1, dims=1)
    num_targets = torch.full_like(labels[:, :1], labels.shape[1] - 1)  # (B,1)
    labelled = (labels != NO_LABEL).roll(-1, dims=1)
    return Shifted(input_ids, targets, num_targets, labelled, attention_mask)


@dataclass
class TokenLMOutput(ModelOutput):
    """
    Args:
        loss: () mean loss per target. losses: the named sum `token` in nats; with a teacher also `teacher`, KL to it in
            nats, and `distilled`, what is trained on. correct: () targets that were the first choice.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    correct: Tensor | None = None


class TokenLM(nn.Module):
    """A pretrained or random language model, trained and scored on whole texts.

    Args: keep: what of a text it keeps; default: all.

    Attributes:
        teacher_weight: share of the teacher in the loss of each token; 0: the model has none.
        online_teacher: asked about batches that say so; others bring what a teacher said.
    """

    earlier_names = {"opt.": "lm."}  # beginnings of weights' names in checkpoints of earlier versions, and today's
    teacher_weight: float = 0.0
    online_teacher: OnlineTeacher | None = None

    def __init__(self, lm: PreTrainedModel, keep: KeptWindow | None = None):
        super().__init__()
        self.lm, self.keep = lm, keep
        self.config = lm.config
        self.ids = special_ids(lm.config)
        output_table(lm)  # refuses a head that is more than this

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"distilled": 1.0, "token": 0.0, "teacher": 0.0} if self.teacher_weight else {"token": 1.0}

    def loss_counts(
        self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, **taught: Tensor
    ) -> dict[str, Tensor]:
        """Args: as for `forward`."""
        num_tokens, num_targets = attention_mask.sum(), attention_mask.sum() + ends.sum()
        if not taught:
            return {"token": num_targets}
        return {"token": num_targets, "teacher": num_tokens, "distilled": num_targets}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, **taught: Tensor) -> TokenLMOutput:
        """
        Args:
            input_ids, attention_mask, ends: as for `shift`.
            taught: in training with a teacher either `teacher_ids` and `teacher_log_probs` (B, L, K), its most probable
                ids at each token, or `ask_teacher` (B,): the online teacher is asked. It says nothing of ends.
        """
        hidden, targets, mask = self._hidden(input_ids, attention_mask, ends)
        if not taught:
            result = vocabulary_loss(hidden, self._table, targets)
            losses = {"token": result.loss}
        else:
            teacher = self._teacher(input_ids, attention_mask, mask, **taught)
            result = taught_loss(hidden, self._table, targets, teacher)
            losses = {"token": result.row_nats.sum(), "teacher": result.row_divergence.sum(), "distilled": result.loss}
        return TokenLMOutput(loss=result.loss / len(targets), losses=losses, correct=result.row_correct.sum())

    def _teacher(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        teacher_ids: Tensor | None = None,
        teacher_log_probs: Tensor | None = None,
        ask_teacher: Tensor | None = None,
    ) -> Teacher:
        """Of the targets that `mask` (B, L+1) chooses."""
        if teacher_ids is not None and teacher_log_probs is not None:
            ids = F.pad(teacher_ids, (0, 0, 0, 1))  # (B,L+1,K): the end of a window has no row
            log_probs = F.pad(teacher_log_probs, (0, 0, 0, 1), value=float("-inf"))
            return SparseTeacher.of_rows(ids[mask], log_probs[mask], self.teacher_weight)
        assert ask_teacher is not None
        assert self.online_teacher is not None, "the batches ask for a teacher"
        weights = self.teacher_weight * F.pad(attention_mask, (0, 1)).float()  # (B,L+1)
        return self.online_teacher.of_rows(input_ids, attention_mask, mask, weights[mask])

    def nats(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        ends: Tensor,
        first: Tensor | None = None,
        measure: Any = token_nats,
    ) -> Tensor:
        """-log p of every target, (B, L+1); 0 where there is none.

        Args: as for `shift`;
            first: (B,) the first target to score, those before it are context and get zeros; default: 0.
            measure: `token_nats`, or `signed_nats`, whose signs say which targets were the first choice.
        """
        hidden, targets, mask = self._hidden(input_ids, attention_mask, ends, first)
        values = measure(hidden, self._table, targets)
        return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)

    def flops(self, num_tokens: int, context: int) -> float:
        """FLOPs of a forward pass over so many tokens in windows of `context`, by formula."""
        return sum(self.flops_by_part(num_tokens, context).values())

    def flops_by_part(self, num_tokens: int, context: int) -> dict[str, float]:
        """The same, parted."""
        config = self.config
        attention = attention_flops(attention_width(config), config.num_hidden_layers, context / 2)
        trunk = num_tokens * (linear_flops(trunk_of(self.lm)) + attention)
        return {"trunk": trunk, "vocabulary": num_tokens * 2.0 * self._table.numel()}

    @property
    def _table(self) -> Tensor:
        return output_table(self.lm)

    def _hidden(
        self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, first: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states (M,D) and targets (M,) of all that is predicted, and where they stand (B,L+1)."""
        cut = shift(input_ids, attention_mask, ends, self.ids)
        targets, mask = cut.of_head(1, first)
        trunk, read = trunk_of(self.lm), F.pad(attention_mask, (1, 0), value=True).long()
        if self.keep is None:
            hidden = trunk(cut.input_ids, attention_mask=read, use_cache=False).last_hidden_state
        else:
            hidden = self.keep.states(trunk, cut.input_ids, read.sum(1).tolist())
        return hidden[mask], targets[mask], mask


class TokenScorer(Protocol):
    """A token-level language model that reads `</s> x1 .. xL` and scores what follows."""

    config: Any

    def nats(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        ends: Tensor,
        first: Tensor | None = None,
        measure: Any = token_nats,
    ) -> Tensor: ...


@dataclass
class Scores:
    """What texts cost a model, one entry per text: nats (natural log), UTF-8 bytes, tokens of its own tokenizer."""

    nats: list[float]
    bytes: list[int]
    tokens: list[int]

    @classmethod
    def of(cls, documents: "Sequence[DocumentNats]") -> "Scores":
        return cls([d.nats for d in documents], [d.num_bytes for d in documents], [d.num_tokens for d in documents])


@dataclass
class DocumentNats:
    """What one text costs a model."""

    token: list[float]  # nats of each unit: a token, or a sentence with its end mark
    stop: list[float]  # nats of the flags, where the model has them
    num_tokens: int
    num_bytes: int

    @property
    def nats(self) -> float:
        return sum(self.token) + sum(self.stop)


def score_tokens(
    model: TokenScorer,
    tokenizer: PreTrainedTokenizerFast,
    texts: str | Sequence[str],
    *,
    contexts: str | Sequence[str] | None = None,
    window: int | None = None,
    batch_size: int = 4,
) -> list[DocumentNats]:
    """-log p of every token of every text and of its closing `</s>`, in overlapping windows.

    Args:
        contexts: what stands before each text and is read, not scored; both are tokenised as one text.
        window: tokens of a window; default: all positions but the one for the opening `</s>`.

    Raises:
        ValueError: a window longer than the model's positions, as many contexts as there are not texts, or a context
            that ends inside a token.
    """
    texts, contexts = matching_contexts(texts, contexts)
    codec = codec_of(tokenizer)
    documents = codec.encode_batch([context + text for context, text in zip(contexts, texts, strict=True)])
    starts = [codec.num_tokens_of(context, ids) for context, ids in zip(contexts, documents, strict=True)]
    nats = score_ids(model, documents, starts, window, batch_size)
    return [
        DocumentNats(of_ids, [], len(ids) - start, len(text.encode()))
        for of_ids, ids, start, text in zip(nats, documents, starts, texts, strict=True)
    ]


def score_ids(
    model: TokenScorer,
    documents: Sequence[list[int]],
    starts: Sequence[int] | None = None,
    window: int | None = None,
    batch_size: int = 4,
    measure: Any = token_nats,
) -> list[list[float]]:
    """The same for texts as ids: for each its tokens, zeros for those before its start, and its end."""
    assert isinstance(model, nn.Module)
    limit = model.config.max_position_embeddings - 1
    window = limit if window is None else window
    if window > limit:
        raise ValueError(f"window={window}: this model has positions for at most {limit} tokens and the opening </s>.")
    results = [[0.0] * (len(ids) + 1) for ids in documents]
    firsts = [0] * len(documents) if starts is None else starts
    jobs = [(d, w) for d, ids in enumerate(documents) for w in windows(len(ids), window, firsts[d])]
    jobs.sort(key=lambda job: job[1].stop - job[1].start)
    device = next(model.parameters()).device
    pad = special_ids(model.config).pad
    for begin in range(0, len(jobs), batch_size):
        batch: list[tuple[int, Window]] = jobs[begin : begin + batch_size]
        ids, mask = pad_tokens([documents[d][w.start : w.stop] for d, w in batch], pad)
        ends = torch.tensor([w.stop == len(documents[d]) for d, w in batch])
        first = torch.tensor([w.scored - w.start for _, w in batch])
        ids, mask, ends, first = (t.to(device) for t in (ids, mask, ends, first))
        with inference(model):
            nats = model.nats(ids, mask, ends, first, measure=measure).tolist()
        for (d, w), row, end in zip(batch, nats, ends.tolist(), strict=True):
            results[d][w.scored : w.stop + end] = row[w.scored - w.start : w.stop - w.start + end]
    return results


def matching_contexts(texts: str | Sequence[str], contexts: str | Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Texts, and one context for each, empty ones by default."""
    texts = text_list(texts)
    contexts = [""] * len(texts) if contexts is None else text_list(contexts, "contexts")
    if len(contexts) != len(texts):
        raise ValueError(f"{len(contexts)} contexts for {len(texts)} texts: give one for each, perhaps empty.")
    return texts, contexts
