"""Which items make step k: a pure function of (seed, number of items, batch size, step).

The training stream is one permutation of the items after another, each drawn from (seed, epoch). Step k takes the items
[k * batch_size, (k + 1) * batch_size) of that stream. So the position in the data is an integer, and a run continues
exactly where it stopped, on any number of processes.
"""

from typing import Protocol

import numpy as np
from torch import Tensor

Batch = dict[str, Tensor]


class Items(Protocol):
    """What a training reads: items of one kind, by number."""

    def __len__(self) -> int: ...
    def batch(self, indices: np.ndarray) -> Batch: ...


class Dataset(Items, Protocol):
    """Items of text, whose sizes are known."""

    lengths: np.ndarray  # (num_items,) tokens of each
    num_bytes: np.ndarray  # (num_items,) UTF-8 bytes of each


class BatchOrder:
    """The items of every optimizer step, over all processes.

    Args:
        num_items: how many training items there are.
        batch_size: items per optimizer step, over all processes.
        seed: the seed of the permutations.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int) -> None:
        if num_items < 1:
            raise ValueError(
                "There are no training items (0): is the train split empty, or are all documents too short?"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: at least one item is needed per step.")
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self._permutations: dict[int, np.ndarray] = {}  # the epochs in use: one, or two where a step crosses the border

    def items(self, step: int) -> np.ndarray:
        """Indices of the items of a step (counted from 0): shape (batch_size,)."""
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        epochs, offsets = np.divmod(position, self.num_items)
        self._permutations = {int(epoch): self._permutation(int(epoch)) for epoch in np.unique(epochs)}
        return np.array([self._permutations[int(epoch)][offset] for epoch, offset in zip(epochs, offsets, strict=True)])

    def epoch(self, step: int) -> float:
        """How many times the data has been seen before this step."""
        return step * self.batch_size / self.num_items

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch in self._permutations:
            return self._permutations[epoch]
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_items)


def micro_batches(
    items: np.ndarray, lengths: np.ndarray | None, micro_batch_size: int | None, rank: int = 0, world_size: int = 1
) -> list[np.ndarray]:
    """One process's share of a step, cut into micro-batches of like length, the longest first (so that a shortage of
    memory shows at once). Every process gets as many micro-batches as every other, empty ones at the end where items
    are not enough.

    Args:
        items: (batch_size,) indices, `BatchOrder.items(step)`.
        lengths: (num_items,) length of every item in any unit, or None to keep the items' order.
        micro_batch_size: items per forward pass of one process; None: all of its share at once.
    """
    if lengths is not None:
        items = items[np.argsort(-lengths[items], kind="stable")]
    share = items[rank::world_size]  # dealt like cards: every process gets long and short ones
    most = -(-len(items) // world_size)
    size = min(micro_batch_size or most, most)
    return [share[start : start + size] for start in range(0, most, size)]


def count_tokens(batch: Batch) -> int:
    """Real tokens of a batch: no padding, no end marks."""
    return int(batch["attention_mask"].sum())


def steps_for(train_tokens: int, items: Dataset, batch_size: int) -> int:
    """Optimizer steps that read about `train_tokens` tokens."""
    return max(1, round(train_tokens / (float(items.lengths.mean()) * batch_size)))
