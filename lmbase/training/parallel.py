"""One model over several processes: a copy in each (DDP), or its weights and optimizer shared out (FSDP)."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from lmbase.training.training_config import TrainingConfig

FoundT = TypeVar("FoundT")


def new_accelerator(config: TrainingConfig, folder: Path) -> Accelerator:
    """
    Raises:
        ValueError: the device that is wished for is not there.
    """
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    log_with = None if config.tracker == "none" else config.tracker
    accelerator = Accelerator(cpu=cpu, log_with=log_with, project_dir=folder)
    if config.device not in ("auto", accelerator.device.type):
        raise ValueError(
            f"device = {config.device!r}, but here there is only {accelerator.device.type!r}; known are auto, cpu, "
            "cuda and mps (CUDA_VISIBLE_DEVICES chooses among several GPUs)."
        )
    return accelerator


def in_main_process(accelerator: Accelerator, act: Callable[[], FoundT]) -> FoundT:
    """Do in the main process alone what gives something, or raises a ValueError or OSError, in all of them."""
    found: Any = None
    error: Exception | None = None
    if accelerator.num_processes == 1:
        return act()
    if accelerator.is_main_process:
        try:
            found = act()
        except (ValueError, OSError) as raised:
            error = raised
    shared = [found if accelerator.is_main_process and _is_plain(found) else None, error]
    found, error = broadcast_object_list(shared)
    if error is not None:
        raise error
    return found


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | Path | list | tuple | None)


def parallelise(model: Any, config: TrainingConfig, world_size: int, device: torch.device) -> nn.Module:
    """The module to call in training: `model` itself, sharded in place (fsdp), or wrapped (ddp)."""
    if config.gradient_checkpointing:
        recompute_activations(model)
    if config.compile:
        model.compile(dynamic=True)
    if world_size == 1:
        return model
    if config.strategy == "ddp":
        device_ids = [device.index] if device.type == "cuda" else None
        # A model may train some of its parameters in some steps only (a curriculum); others pay nothing for that.
        some = getattr(model, "trains_in_part", False)
        return DistributedDataParallel(model, device_ids=device_ids, find_unused_parameters=some)
    for block in sharded_blocks(model):
        fully_shard(block)
    return fully_shard(model)


def recompute_activations(model: nn.Module) -> None:
    """Let a model compute activations once more in the backward pass, so that it need not hold them.

    Raises:
        ValueError: none of its parts can.
    """
    able: list[Any] = [m for m in model.modules() if getattr(m, "supports_gradient_checkpointing", False)]
    if not able:
        raise ValueError(f"gradient_checkpointing: {type(model).__name__} cannot recompute activations; turn it off.")
    for module in able:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def sharded_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that fsdp gathers one at a time, inner ones first; what is outside of them it gathers once a pass."""
    blocks = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))

    def alone(block: nn.Module) -> bool:
        # Into the outermost group, which is gathered once a pass, goes a parameter that several modules use, and a
        # layer that runs in parts, or as often as a batch needs: not as often in every process.
        in_parts = any(getattr(module, "runs_in_parts", False) for module in block.modules())
        return not in_parts and all(uses[id(parameter)] == 1 for parameter in block.parameters())

    return [m for m in reversed(list(model.modules())) if type(m).__name__ in blocks and alone(m)]


def gradients_shared(parallel: nn.Module, now: bool) -> contextlib.AbstractContextManager:
    """Processes exchange gradients in the last backward pass of a step only."""
    if isinstance(parallel, FSDPModule):
        parallel.set_requires_gradient_sync(now)
    elif isinstance(parallel, DistributedDataParallel) and not now:
        return parallel.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def shards_gathered(model: nn.Module) -> Iterator[None]:
    """Within this context a sharded model has whole weights, so that its other methods work as well as its forward; the
    processes do not wait for each other in any of them."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
        if module is not model:  # the outermost module keeps its weights in any case
            module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in sharded:
            if module is not model:
                module.set_reshard_after_forward(True, recurse=False)
            module.reshard()
