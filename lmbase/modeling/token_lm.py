"""OPT: the trunk of every model here and the token-level baseline beside it.

B texts or windows, L tokens, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import OPTForCausalLM, PreTrainedTokenizerFast
from transformers.utils import ModelOutput

from lmbase.modeling.flops import attention_flops, linear_flops
from lmbase.modeling.inference import inference
from lmbase.modeling.losses import token_nats, vocabulary_loss
from lmbase.text.padding import pad_tokens
from lmbase.text.tokenizers import encode_text
from lmbase.text.windows import Window, windows


@dataclass
class TokenLMOutput(ModelOutput):
    """
    Args:
        loss: () mean nats per target. losses: the named sum `token`. correct: () targets that were the first choice.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    correct: Tensor | None = None


class TokenLM(nn.Module):
    """OPT as a language model of whole texts: reads `</s> x1 .. xL`, predicts `x1 .. xL` and, at the end, `</s>`."""

    def __init__(self, opt: OPTForCausalLM):
        super().__init__()
        self.opt = opt
        self.config = opt.config

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"token": 1.0}

    def loss_counts(self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor) -> dict[str, Tensor]:
        return {"token": attention_mask.sum() + ends.sum()}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, **kwargs) -> TokenLMOutput:
        """
        Args:
            input_ids, attention_mask: (B, L) text tokens of a window, padded on the right.
            ends: (B,) True where the window holds its text's end.
        """
        hidden, targets, _ = self._hidden(input_ids, attention_mask, ends)
        result = vocabulary_loss(hidden, self._table, targets)
        correct = result.row_correct.sum()
        return TokenLMOutput(loss=result.loss / len(targets), losses={"token": result.loss}, correct=correct)

    def nats(self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, first: Tensor | None = None) -> Tensor:
        """-log p of every target, (B, L+1); 0 where there is none.

        Args: as for `forward`;
            first: (B,) the first target to score, those before it are context and get zeros; default: 0.
        """
        hidden, targets, mask = self._hidden(input_ids, attention_mask, ends, first)
        values = token_nats(hidden, self._table, targets)
        return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)

    def flops(self, num_tokens: int, context: int) -> float:
        """Of a forward pass over so many tokens in windows of `context`, by formula."""
        config = self.opt.config
        attention = attention_flops(config.hidden_size, config.num_hidden_layers, context / 2)
        return num_tokens * (linear_flops(self.opt.model) + attention + 2.0 * self._table.numel())

    @property
    def _table(self) -> Tensor:
        return self.opt.get_input_embeddings().weight

    def _hidden(
        self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, first: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states (M,D) and targets (M,) of all that is predicted, and where they stand (B,L+1)."""
        config = self.opt.config
        lengths = attention_mask.sum(1, keepdim=True)  # (B,1)
        index = torch.arange(input_ids.shape[1] + 1, device=input_ids.device)[None]  # (1,L+1)
        mask = index < lengths + ends[:, None]  # (B,L+1)
        if first is not None:
            mask &= index >= first[:, None]
        targets = torch.where(index == lengths, cast(int, config.eos_token_id), F.pad(input_ids, (0, 1)))
        inputs = F.pad(input_ids, (1, 0), value=config.bos_token_id)  # (B,L+1)
        hidden = self.opt.model(
            inputs, attention_mask=F.pad(attention_mask, (1, 0), value=True).long(), use_cache=False
        )
        return hidden.last_hidden_state[mask], targets[mask], mask


class TokenScorer(Protocol):
    """A token-level language model that reads `</s> x1 .. xL` and scores what follows."""

    config: Any

    def nats(self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, first: Tensor | None = None) -> Tensor: ...


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
    texts: Sequence[str],
    *,
    window: int | None = None,
    batch_size: int = 4,
) -> list[DocumentNats]:
    """-log p of every token of every text and of its closing `</s>`, in overlapping windows.

    Args:
        window: tokens of a window; default: all positions but the one for the opening `</s>`.
    """
    assert isinstance(model, nn.Module)
    limit = model.config.max_position_embeddings - 1
    window = limit if window is None else window
    if window > limit:
        raise ValueError(f"window={window}: this model has positions for at most {limit} tokens and the opening </s>.")
    documents = [encode_text(tokenizer, text) for text in texts]
    results = [
        DocumentNats([0.0] * (len(ids) + 1), [], len(ids), len(t.encode()))
        for ids, t in zip(documents, texts, strict=True)
    ]
    jobs = [(d, w) for d, ids in enumerate(documents) for w in windows(len(ids), window)]
    jobs.sort(key=lambda job: job[1].stop - job[1].start)
    device = next(model.parameters()).device
    for start in range(0, len(jobs), batch_size):
        batch: list[tuple[int, Window]] = jobs[start : start + batch_size]
        ids, mask = pad_tokens([documents[d][w.start : w.stop] for d, w in batch], model.config.pad_token_id)
        ends = torch.tensor([w.stop == len(documents[d]) for d, w in batch])
        first = torch.tensor([w.scored - w.start for _, w in batch])
        with inference(model):
            nats = model.nats(*(t.to(device) for t in (ids, mask, ends, first))).tolist()
        for (d, w), row, end in zip(batch, nats, ends.tolist(), strict=True):
            results[d].token[w.scored : w.stop + end] = row[w.scored - w.start : w.stop - w.start + end]
    return results
