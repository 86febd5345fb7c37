"""Batches of sentences and of tokens, filled up with padding to one length.

B texts, S sentences, T tokens of a sentence, L tokens of a flat text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Ids = Sequence[int] | np.ndarray


@dataclass
class SentenceBatch:
    """Texts as sentences of one length. Padding stands behind the tokens of a sentence and the sentences of a text."""

    input_ids: Tensor  # (B, S, T) int64
    attention_mask: Tensor  # (B, S, T) bool, False on padding
    sentence_mask: Tensor  # (B, S) bool, False on padding

    def to(self, device: torch.device | str) -> "SentenceBatch":
        """The same on a device."""
        return SentenceBatch(*(tensor.to(device) for tensor in vars(self).values()))


def pad_sentences(texts: Sequence[Sequence[Ids]], pad_token_id: int) -> SentenceBatch:
    """Make a batch of texts, each a list of sentences, each a list of ids."""
    num_sentences = max((len(sentences) for sentences in texts), default=0)
    num_tokens = max((len(ids) for sentences in texts for ids in sentences), default=0)
    shape = (len(texts), max(num_sentences, 1), max(num_tokens, 1))
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)  # (B, S, T)
    attention_mask = torch.zeros(shape, dtype=torch.bool)  # (B, S, T)
    for b, sentences in enumerate(texts):
        for s, ids in enumerate(sentences):
            assert len(ids) > 0, "a sentence has at least one token"
            input_ids[b, s, : len(ids)] = torch.tensor(ids)
            attention_mask[b, s, : len(ids)] = True
    return SentenceBatch(input_ids, attention_mask, attention_mask[:, :, 0])


def pad_tokens(rows: Sequence[Ids], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Make input_ids (B, L) and attention_mask (B, L), padded on the right, of lists of ids."""
    width = max((len(ids) for ids in rows), default=0)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for b, ids in enumerate(rows):
        input_ids[b, : len(ids)] = torch.tensor(ids)
        attention_mask[b, : len(ids)] = True
    return input_ids, attention_mask


def between_padding(input_ids: Tensor, pad_token_id: int) -> Tensor:
    """Where ids (..., L) are text, True, and not padding before or after it. Between the first and the last id that is
    no padding all are: many tokenizers pad with a mark that also stands in texts."""
    text = input_ids != pad_token_id
    begun, ends = text.cumsum(-1) > 0, text.flip(-1).cumsum(-1).flip(-1) > 0
    return begun & ends


def as_mask(mask: Tensor, what: str = "attention_mask") -> Tensor:
    """The mask as bool.

    Raises:
        ValueError: values that are neither 0 nor 1. What is added to scores holds 0 for what is read: its opposite.
    """
    if mask.dtype == torch.bool:
        return mask
    if not torch.compiler.is_compiling() and ((mask != 0) & (mask != 1)).any():
        raise ValueError(
            f"{what} holds {mask[(mask != 0) & (mask != 1)][0].item()}: give 1 for what is read and 0 for padding, as "
            "tokenizers do, not what is added to scores of attention."
        )
    return mask.bool()


def right_padded(mask: Tensor, what: str = "attention_mask") -> Tensor:
    """The mask (..., L) as bool. A model that is trained and scored in parallel reads rows from their first column on.

    Raises:
        ValueError: padding stands before something that is none, as tokenizers with padding_side="left" put it.
    """
    mask = as_mask(mask, what)
    if not torch.compiler.is_compiling() and (mask[..., 1:] & ~mask[..., :-1]).any():
        raise ValueError(
            f"{what}: padding stands before or between what is read; forward and nats take it on the right only (set "
            'tokenizer.padding_side = "right"). generate takes both sides.'
        )
    return mask
