"""Where numbers stopped being finite: samples and the first module, or a weight; and what to try."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves

from lmbase.training.checkpoint import newest_checkpoint
from lmbase.training.feed import PreparedStep, StepFeed
from lmbase.training.parallel import gradients_shared
from lmbase.training.training_config import TrainingConfig

LEARNING_RATE = "learning_rate"
MOST_SAMPLES = 8  # that a message names


def figures_text(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def what_to_try(checkpoints: Path, step: int, config: TrainingConfig) -> str:
    """The end of a message: the newest checkpoint up to `step`, and the keys that help."""
    newest, _ = newest_checkpoint(checkpoints, step)
    kept = f"The checkpoint before that, {newest}, is kept." if newest else "There is no earlier checkpoint."
    of_parts = {name: value for name, value in vars(config).items() if name.endswith("_rate") and name != LEARNING_RATE}
    raised = "".join(f" or {name} (now {value:g} times that)" for name, value in of_parts.items() if value > 1)
    return (
        f"{kept} Try a lower {LEARNING_RATE} (now {config.learning_rate:g}){raised}, a longer warm-up "
        f"(warmup_steps, now {config.warmup_steps}), grad_clip (now {config.grad_clip:g}) or dtype fp32, in another "
        "output_dir."
    )


def bad_tensor(model: nn.Module, tensors: dict[str, dict[str, Tensor]]) -> str | None:
    """The first of a checkpoint's tensors that is not finite: the loss of a step is that of the weights before it.
    Buffers do not count: masks hold minus infinity."""
    buffers = dict(model.named_buffers())
    for file, named in tensors.items():
        for name, tensor in named.items():
            looked_at = name not in buffers and tensor.is_floating_point() and tensor.numel() > 0
            if looked_at and not all(map(math.isfinite, tensor.aminmax())):  # one pass, no copy
                return f"{name} ({file})"
    return None


def spoilt(what: str, checkpoints: Path, step: int, config: TrainingConfig) -> FloatingPointError:
    """The error of a run whose losses were finite and whose weights are of no use."""
    return FloatingPointError(
        f"After step {step} {what} is not finite: this step, or one shortly before, was too large. No model is "
        f"written. {what_to_try(checkpoints, step - 1, config)}"
    )


def where_not_finite(
    parallel: nn.Module,
    model: Any,
    prepared: PreparedStep,
    feed: StepFeed,
    step: int,
    accelerator: Accelerator,
    bf16: bool,
) -> str:
    """Go through a step's micro-batches once more, in every process, and say where the first bad numbers are.

    Args:
        parallel: what is called to train `model`.
    """
    found: list[tuple[str, list[int]]] = []

    def place_in(batch: dict[str, Tensor]) -> str | None:
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
            return _place(model, parallel, {key: value.to(accelerator.device) for key, value in batch.items()})

    for share, batch in zip(prepared.items, prepared.batches, strict=True):
        if place := place_in(batch):
            numbers = share.tolist()
            if not isinstance(parallel, FSDPModule):  # whose processes must all do the same
                alone = [number for number in share if place_in(feed.batch(share[share == number], step))]
                numbers = [int(number) for number in alone] or numbers
            found.append((place, numbers))
    found = gather_object(found)
    if not found:
        return "computed once more each micro-batch is finite, so it is their sum that is not"
    samples = sorted({number for _, numbers in found for number in numbers})
    more = f" and {len(samples) - MOST_SAMPLES} more" if len(samples) > MOST_SAMPLES else ""
    return f"first in {found[0][0]}; samples {', '.join(map(str, samples[:MOST_SAMPLES]))}{more}"


def _place(model: Any, parallel: nn.Module, batch: dict[str, Tensor]) -> str | None:
    """The first place in a forward and backward pass that is not finite."""
    outputs: list[str] = []
    hooks = [module.register_forward_hook(_note(name, outputs)) for name, module in model.named_modules()]
    try:
        with gradients_shared(parallel, isinstance(parallel, FSDPModule)):
            losses = parallel(**batch).losses
            torch.stack([model.loss_weights[name] * losses[name] for name in sorted(losses)]).sum().backward()
        gradients = [name for name, parameter in model.named_parameters() if _is_bad(parameter.grad)]
    finally:
        model.zero_grad(set_to_none=True)
        for hook in hooks:
            hook.remove()
    if outputs:
        return f"the output of {outputs[0] or type(model).__name__}"
    return f"the gradient of {gradients[-1]}" if gradients else None  # backwards the last is the first


def _note(name: str, outputs: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if any(_is_bad(leaf) for leaf in tree_leaves(dict(output) if isinstance(output, dict) else output)):
            outputs.append(name)

    return hook


def _is_bad(value: Any) -> bool:
    if isinstance(value, DTensor):
        value = value.to_local()
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
