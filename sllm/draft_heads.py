"""Kinds of drafting heads on a sentence decoder, and what they are trained on.

A new kind is one class here and one line in `DRAFT_HEAD_KINDS`.

M places that predict a token, D width, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from lmbase.modeling.losses import vocabulary_loss
from sentencevae.configuration_sentencevae import SentenceVAEConfig
from sentencevae.layers import DecoderLayer


class DraftHead(DecoderLayer):
    """A block on the decoder's states that predicts a later token; in the beginning it says what head 1 says."""

    attends = True  # to earlier positions, so it needs a cache

    def __init__(self, config: SentenceVAEConfig):
        super().__init__(config)
        for name, module in self.named_modules():
            if name in ("sentence_proj", "attention.out_proj", "memory_attention.out_proj", "ffn.fc2"):
                module.starts_silent = True


class ResidualDraftHead(nn.Module):
    """One linear layer on the decoder's state; in the beginning it says what head 1 says. It reads nothing else, so it
    needs no cache."""

    attends = False

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj.starts_silent = True  # type: ignore[assignment]
        self.act = ACT2FN["silu"]

    def forward(self, x: Tensor, *_) -> Tensor:
        return x + self.act(self.proj(x))


DRAFT_HEAD_KINDS: dict[str, type[DraftHead] | type[ResidualDraftHead]] = {
    "block": DraftHead,
    "residual": ResidualDraftHead,
}


class Ahead(NamedTuple):
    """What a drafting head says at M places, and what it should."""

    hidden: Tensor  # (M,D) after the decoder's last norm
    targets: Tensor  # (M,)
    before: Tensor  # (M,) the token before each target


def aim_at_own_choices(ahead: list[list[Ahead]], masks: list[Tensor], row_choice: Tensor) -> None:
    """Replace drafting heads' targets by what the model itself would write after each of its tokens."""
    choices = row_choice.split([int(mask.sum()) for mask in masks])
    for group, (mask, chosen) in enumerate(zip(masks, choices, strict=True)):
        own = torch.zeros_like(mask, dtype=chosen.dtype).masked_scatter(mask, chosen)  # (n,T+1)
        for i, of_head in enumerate(ahead, start=1):
            of_head[group] = of_head[group]._replace(targets=own[:, i:][mask[:, i:]])


def draft_losses(
    found: Sequence[Sequence[Ahead]],
    embed: nn.Embedding,
    table: Tensor,
    transitions: Iterable[nn.Module],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """The sum of all heads' losses, `drafts`, to train on, and each head's, to look at; one pass over the vocabulary
    for all heads.

    Args:
        found: of each head, in parts.
        table: (V, D) what predictions are multiplied with.
        names: of the heads' losses, and of those of their transitions behind them.
    """
    nothing = torch.zeros(0, dtype=torch.long, device=table.device)
    none = Ahead(table.new_zeros(0, table.shape[1]), nothing, nothing)
    heads = [Ahead(*map(torch.cat, zip(*of_head, strict=True))) if of_head else none for of_head in found]
    targets = torch.cat([head.targets for head in heads])
    results = [vocabulary_loss(torch.cat([head.hidden for head in heads]), table, targets)]
    judged = [
        # Heads go on to say what is likely after whatever token: their best choices are the candidates.
        head.hidden.detach() + transition(embed(head.before).detach(), head.hidden.detach())
        for transition, head in zip(transitions, heads, strict=False)  # there may be none
    ]
    if judged:
        results.append(vocabulary_loss(torch.cat(judged), table.detach(), targets))
    sizes = [len(head.targets) for head in heads]
    sums = [part.sum() for result in results for part in result.row_nats.split(sizes)]
    loss = torch.stack([result.loss for result in results]).sum()
    return {"drafts": loss, **dict(zip(names, sums, strict=True))}
