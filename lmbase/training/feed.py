"""What a run is trained on, and the batches of its steps, made ahead in the background."""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from lmbase.modeling.noise import sample_keys
from lmbase.training import batches
from lmbase.training.batches import Batch, BatchOrder, Items, micro_batches
from lmbase.training.training_config import TrainingConfig


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained on.

    Args:
        items: a batch of them is keyword arguments of the model, on the CPU. It is made in a background thread, one
            step ahead, and must not draw from torch's global random generator.
        lengths: (num_items,) any measure of length; groups items of like length into a micro-batch.
        count_tokens: real tokens of a batch (no padding).
        hash: says which text the items are made of, and how; a run is not continued on others.
        earlier_hash: what earlier versions wrote down for the same items.
        change: makes another batch of a step's batch, given a key of each item (`lmbase.modeling.noise`) and the step.
    """

    items: Items
    lengths: np.ndarray | None = None
    count_tokens: Callable[[Batch], int] = batches.count_tokens
    hash: str | None = None
    earlier_hash: str | None = None
    change: Callable[[Batch, Tensor, int], Batch] | None = None


@dataclass(frozen=True)
class PreparedStep:
    """One process's share of an optimizer step."""

    batches: list[Batch]
    items: list[np.ndarray]  # whose batches they are; none: such a batch counts nothing, see `micro_batches`
    counts: dict[str, float]  # targets of each loss
    tokens: int
    seconds_waited: float = 0.0  # that training stood still for it


class StepFeed:
    """One process's shares of a run's steps.

    Args:
        model: its `loss_counts` are asked for.
        accelerator: says which process this is, of how many, and whether it computes on a GPU.

    Raises:
        ValueError: there are no items.
    """

    def __init__(self, model: Any, data: TrainingData, config: TrainingConfig, accelerator: Accelerator) -> None:
        self.model, self.data = model, data
        self.micro_batch_size, self.seed = config.micro_batch_size, config.seed
        self.draws = getattr(model, "draws", False)
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.pins_memory = accelerator.device.type == "cuda"  # it is copied to the GPU while that computes
        self.order = BatchOrder(len(data.items), config.batch_size, config.seed)

    def steps(self, start: int, stop: int) -> Generator[PreparedStep, None, None]:
        """Steps start..stop-1, each prepared in the background while the step before it is computed."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            upcoming = pool.submit(self._prepare, start) if start < stop else None
            for step in range(start, stop):
                assert upcoming is not None
                waiting = time.perf_counter()
                prepared = upcoming.result()
                waited = time.perf_counter() - waiting
                upcoming = pool.submit(self._prepare, step + 1) if step + 1 < stop else None
                yield replace(prepared, seconds_waited=waited)

    def batch(self, share: np.ndarray, step: int) -> Batch:
        """Items as the model takes them, with what decides its draws for each if it draws for each."""
        made = self.data.items.batch(share)
        keys = sample_keys(self.seed, step, torch.from_numpy(share))
        if self.data.change is not None:
            made = self.data.change(made, keys, step)
        return made | {"keys": keys} if self.draws else made

    def _prepare(self, step: int) -> PreparedStep:
        items = self.order.items(step)
        shares = micro_batches(items, self.data.lengths, self.micro_batch_size, self.rank, self.world_size)
        made = [self.batch(share if len(share) else items[:1], step) for share in shares]
        counts: dict[str, float] = {}
        tokens = 0
        for share, batch in zip(shares, made, strict=True):
            real = len(share) > 0
            for name, count in self.model.loss_counts(**batch).items():
                counts[name] = counts.get(name, 0.0) + float(count) * real
            tokens += self.data.count_tokens(batch) * real
        if self.pins_memory:
            made = [{key: value.pin_memory() for key, value in batch.items()} for batch in made]
        return PreparedStep(made, shares, counts, tokens)
