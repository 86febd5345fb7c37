"""How long training takes here: some passes of a real model, timed."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from lmbase.training.batches import Batch
from lmbase.training.optimizer import adamw
from lmbase.training.training_config import TrainingConfig

MOST_ROUNDS = 12
Clock = Callable[[], float]


def processor_clock() -> float:
    """Seconds of this process's threads: those that others take from it on a busy machine do not count."""
    return time.process_time() / torch.get_num_threads()


def seconds_of(work: Callable[[], Any], most_seconds: float = 1.5, clock: Clock = time.perf_counter) -> float:
    """The median of some rounds, two at least, after one that is left out."""
    found: list[float] = []
    while len(found) < 3 or (sum(found[1:]) < most_seconds and len(found) < MOST_ROUNDS):
        began = clock()
        work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        found.append(clock() - began)
    return median(found[1:])


def pass_seconds(
    model: Any, batch: Batch, dtype: str, most_seconds: float = 1.5, clock: Clock = time.perf_counter
) -> float:
    """Of the forward and backward pass of a micro-batch."""
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    model.train()

    def once() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            losses = model(**batch).losses
        float(sum(losses.values()).detach())
        sum(losses.values()).backward()
        model.zero_grad()

    return seconds_of(once, most_seconds, clock)


def update_seconds(model: Any, most_seconds: float = 0.5, clock: Clock = time.perf_counter) -> float:
    """Of what follows the passes of a step: the norm of the gradients, and AdamW."""
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    optimizer = adamw(trained, TrainingConfig(), trained[0][1].device)
    for _, weight in trained:
        weight.grad = torch.zeros_like(weight)

    def once() -> None:
        torch.nn.utils.clip_grad_norm_([weight for _, weight in trained], 1.0)
        optimizer.step()

    return seconds_of(once, most_seconds, clock)
