"""Flat rows of ids, as Transformers' tokenizers and collators make them, as the sentences that an SLLM reads.

B texts, L columns.
"""

from typing import Any

import torch
from torch import Tensor

from lmbase.text.padding import as_mask, between_padding, pad_sentences
from lmbase.text.processor import SentenceProcessor
from sllm.configuration_sllm import SLLMConfig


def cut_rows(
    config: SLLMConfig, processor: SentenceProcessor, input_ids: Tensor, attention_mask: Tensor | None
) -> dict[str, Any]:
    """What `forward` takes of rows (B, L). </s> may stand in front of a text; behind it, it says that the text ends.

    Raises:
        ValueError: special ids inside a text, or one of more sentences than the model reads at once.
    """
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids {tuple(input_ids.shape)} without a sentence_mask: give (B, L) flat ids.")
    mask = between_padding(input_ids, config.pad_token_id) if attention_mask is None else as_mask(attention_mask)
    texts, continues = [], []
    for ids, real in zip(input_ids, mask, strict=True):
        row = ids[real].tolist()
        row = row[row[:1] == [config.bos_token_id] :]
        ends = row[-1:] == [config.eos_token_id]
        sentences = processor.read_ids(row[:-1] if ends else row)
        if len(sentences) > config.max_sentences:
            raise ValueError(
                f"A text of {len(sentences)} sentences, and the model reads {config.max_sentences} (max_sentences): "
                "cut it into shorter rows before training on it."
            )
        texts.append(sentences)
        continues.append(not ends)
    batch = pad_sentences(texts, config.pad_token_id).to(input_ids.device)
    return {**vars(batch), "continues": torch.tensor(continues, device=input_ids.device)}
