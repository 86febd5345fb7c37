"""Where a recipe computes, and in what."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}  # as recipes name them

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_planned: str | None = None


def choose_device(name: str) -> str:
    """`name`, or for `auto` the GPU if there is one.

    Raises:
        ValueError: a name that is not known, or a device that this machine does not have.
    """
    usable = ["cpu"]
    if torch.cuda.is_available():
        usable += ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        usable.append("mps")
    if name == "auto":
        return "cuda" if "cuda" in usable else "cpu"
    if name not in usable:
        raise ValueError(
            f"device = {name!r}, but here there is only {', '.join(map(repr, usable))}; known are auto, cpu, cuda and "
            "mps (CUDA_VISIBLE_DEVICES chooses among several GPUs)."
        )
    return name


def moved(model: ModuleT, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> ModuleT:
    """The model itself, after its weights went to a device or became a dtype; what is None stays as it is."""
    wanted: dict[str, Any] = {"device": device, "dtype": dtype}
    # Transformers hides this method's type behind its check of quantised weights.
    return cast(Any, model).to(**{name: value for name, value in wanted.items() if value is not None})


def kernels_of(tensor: Tensor) -> str:
    """The kind of device whose kernels compute with a tensor: where it lies, or what is planned for."""
    return _planned or tensor.device.type


@contextmanager
def planned_for(kind: str) -> Iterator[None]:
    """Within this context, that of a dry run, models cut their work as on a device of this kind (cpu, cuda)."""
    global _planned
    before, _planned = _planned, kind
    try:
        yield
    finally:
        _planned = before
