"""Datasets for training, cut from prepared data: what one index is, and how a batch of indices is put together.

B indices, S sentences, T tokens of a sentence, L tokens of a window. `stops` (num_items,) says up to which token of the
split's flat stream each item reads.
"""

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import torch

from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.text.windows import training_windows
from lmbase.training.batches import Batch
from sllm_data.prepared import PreparedSplit


class SentenceDataset:
    """Dataset of single sentences, for the autoencoder: input_ids and attention_mask (B, T)."""

    def __init__(self, split: PreparedSplit, pad_token_id: int):
        self.split, self.pad_token_id = split, pad_token_id
        self.lengths = np.diff(split.sentence_tokens)
        self.num_bytes = split.sentence_bytes

    def __len__(self) -> int:
        return self.split.num_sentences

    def batch(self, indices: np.ndarray) -> Batch:
        borders = self.split.sentence_tokens
        rows = [self.split.tokens(int(borders[i]), int(borders[i + 1])) for i in indices]
        input_ids, attention_mask = pad_tokens(rows, self.pad_token_id)
        return {"input_ids": input_ids, "attention_mask": attention_mask}


class SentenceWindowDataset:
    """Dataset of windows of up to `max_sentences` sentences of one document, for an SLLM.

    input_ids and attention_mask (B, S, T), sentence_mask (B, S), continues (B,): the document goes on.
    """

    def __init__(self, split: PreparedSplit, pad_token_id: int, max_sentences: int):
        self.split, self.pad_token_id = split, pad_token_id
        self.windows = [
            (first + start, first + stop, first + stop < last)
            for first, last in pairwise(split.document_sentences.tolist())
            for start, stop in training_windows(last - first, max_sentences)
        ]
        borders = np.array([(start, stop) for start, stop, _ in self.windows], dtype=np.int64).reshape(-1, 2)
        self.lengths = split.sentence_tokens[borders[:, 1]] - split.sentence_tokens[borders[:, 0]]
        self.stops = split.sentence_tokens[borders[:, 1]]
        before = np.concatenate([[0], np.cumsum(split.sentence_bytes, dtype=np.int64)])
        self.num_bytes = before[borders[:, 1]] - before[borders[:, 0]]

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, indices: np.ndarray) -> Batch:
        borders = self.split.sentence_tokens
        texts, continues = [], []
        for i in indices:
            start, stop, goes_on = self.windows[i]
            sentences = pairwise(borders[start : stop + 1].tolist())
            texts.append([self.split.tokens(a, b) for a, b in sentences])
            continues.append(goes_on)
        return {**asdict(pad_sentences(texts, self.pad_token_id)), "continues": torch.tensor(continues)}

    def positions(self, indices: np.ndarray) -> np.ndarray:
        """Where each token of a batch stands in the flat stream of the split, (B, S, T); -1 on padding."""
        borders = self.split.sentence_tokens
        texts = [
            [np.arange(a, b) for a, b in pairwise(borders[start : stop + 1].tolist())]
            for start, stop, _ in (self.windows[i] for i in indices)
        ]
        return pad_sentences(texts, -1).input_ids.numpy()


class TokenWindowDataset:
    """Dataset of windows of up to `window` tokens of one document, for a token-level model.

    input_ids and attention_mask (B, L), ends (B,): the window holds its document's end.
    """

    def __init__(self, split: PreparedSplit, pad_token_id: int, window: int):
        self.split, self.pad_token_id = split, pad_token_id
        tokens_before = split.sentence_tokens[split.document_sentences]
        self.windows = [
            (first + start, first + stop, first + stop == last)
            for first, last in pairwise(tokens_before.tolist())
            for start, stop in training_windows(last - first, window)
        ]
        borders = np.array([(start, stop) for start, stop, _ in self.windows], dtype=np.int64).reshape(-1, 2)
        self.lengths = borders[:, 1] - borders[:, 0]
        self.stops = borders[:, 1]
        # Bytes are known per sentence: a window has those of its sentences, in part where it cuts one.
        bytes_before = np.concatenate([[0], np.cumsum(split.sentence_bytes, dtype=np.int64)])
        self.num_bytes = np.diff(np.interp(borders, split.sentence_tokens, bytes_before), axis=1)[:, 0]

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, indices: np.ndarray) -> Batch:
        rows = [self.split.tokens(*self.windows[i][:2]) for i in indices]
        input_ids, attention_mask = pad_tokens(rows, self.pad_token_id)
        ends = torch.tensor([self.windows[i][2] for i in indices])
        return {"input_ids": input_ids, "attention_mask": attention_mask, "ends": ends}

    def positions(self, indices: np.ndarray) -> np.ndarray:
        """Where each token of a batch stands in the flat stream of the split, (B, L); -1 on padding."""
        return pad_tokens([np.arange(*self.windows[i][:2]) for i in indices], -1)[0].numpy()
