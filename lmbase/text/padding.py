"""Padded batches of sentences and of tokens.

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
    """Texts as padded sentences; real sentences and real tokens come first in their rows."""

    input_ids: Tensor  # (B, S, T) int64
    attention_mask: Tensor  # (B, S, T) bool, True on real tokens
    sentence_mask: Tensor  # (B, S) bool, True on real sentences


def pad_sentences(texts: Sequence[Sequence[Ids]], pad_token_id: int) -> SentenceBatch:
    """Nested id lists -> SentenceBatch."""
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
    """Id lists -> input_ids (B, L) and attention_mask (B, L), padded on the right."""
    width = max((len(ids) for ids in rows), default=0)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for b, ids in enumerate(rows):
        input_ids[b, : len(ids)] = torch.tensor(ids)
        attention_mask[b, : len(ids)] = True
    return input_ids, attention_mask
