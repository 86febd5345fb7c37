"""AdamW as the recipes use it, its learning rate over time, and the averaged weights."""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from lmbase.training.training_config import TrainingConfig


def adamw(
    parameters: list[tuple[str, nn.Parameter]],
    config: TrainingConfig,
    device: torch.device,
    rate_of: Callable[[str], float] | None = None,
) -> torch.optim.AdamW:
    """
    Args:
        rate_of: of a parameter's name, what the learning rate is multiplied by (kept as a group's `scale`); default: 1.
    """
    if not parameters:
        raise ValueError("No parameter of the model is trainable: everything is frozen.")
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        scale = 1.0 if rate_of is None else rate_of(name)
        groups.setdefault((parameter.ndim < 2, scale), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[key], "weight_decay": 0.0 if key[0] else config.weight_decay, "scale": key[1]}
            for key in sorted(groups)
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=device.type in ("cpu", "cuda"),
    )


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The learning rate of a step (counted from 0): linear warm-up, then the schedule down to its last value at
    max_steps.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = min((step - config.warmup_steps) / max(config.max_steps - 1 - config.warmup_steps, 1), 1.0)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[config.schedule]
    return config.learning_rate * (config.min_learning_rate_ratio + (1 - config.min_learning_rate_ratio) * left)


class WeightAverage:
    """Exponential moving average of the trained weights (of this process's shards, where they are sharded).

    The first steps use the shorter memory (1 + step) / (10 + step), so that the initial weights are forgotten.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.weights = [_local(parameter) for parameter in parameters]
        self.averages = [weight.clone() for weight in self.weights]

    def update(self, step: int) -> None:
        """Take in the weights after `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within this context the model has the averaged weights."""
        trained = [weight.clone() for weight in self.weights]
        self.copy_to_model()
        try:
            yield
        finally:
            torch._foreach_copy_(self.weights, trained)

    def copy_to_model(self) -> None:
        """Replace the model's weights by the averages."""
        torch._foreach_copy_(self.weights, self.averages)

    def copy_from_model(self) -> None:
        """Replace the averages by the model's weights."""
        torch._foreach_copy_(self.averages, self.weights)


def _local(parameter: nn.Parameter) -> torch.Tensor:
    weight = parameter.detach()
    return weight.to_local() if isinstance(weight, DTensor) else weight
