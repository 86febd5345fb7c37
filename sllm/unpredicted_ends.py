"""Sentences whose ends nobody predicts: those that training cuts short, and those whose ends are told.

B texts, S sentences of one.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sllm.configuration_sllm import SLLMConfig
from sllm.sentences import Decoded


def without_end(
    config: SLLMConfig, sentence_mask: Tensor, continues: Tensor | None, cut_short: Tensor | None = None
) -> Tensor | None:
    """(B, S) of the real sentences those without an end to predict; None if all have one. Where ends are told, a text's
    last one is predicted: that the text ends there the rule does not know.

    Args:
        sentence_mask: (B, S). continues: (B,) True where the text goes on.
        cut_short: (B, S) those that training has ended early.
    """
    if not config.told_ends:
        return cut_short
    told = F.pad(sentence_mask[:, 1:], (0, 1))
    if continues is not None:
        last = torch.arange(told.shape[1], device=told.device) == sentence_mask.sum(1, keepdim=True) - 1
        told = told | (last & continues[:, None])
    return told if cut_short is None else told | cut_short


def drop_ends(decoded: Decoded, sentences: Any, endless: Tensor | None, end_id: int) -> Decoded:
    """Of what the decoder is to predict leave out the ends of these sentences (B, S)."""
    if endless is None:
        return decoded
    short = endless[sentences.rows[decoded.index], sentences.places[decoded.index]]  # (n,)
    mask = decoded.cut.mask & ~(short[:, None] & (decoded.cut.targets == end_id))
    return replace(decoded, cut=replace(decoded.cut, mask=mask))
