"""Where a loss or gradient stopped being finite: samples, and the first module whose output or gradient is not."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves

from lmbase.training.feed import PreparedStep, StepFeed
from lmbase.training.parallel import gradients_shared

MOST_SAMPLES = 8  # that a message names


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
