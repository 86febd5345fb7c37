"""Where a recipe computes, and in what."""

import torch

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}  # as recipes name them


def choose_device(name: str) -> str:
    """`name`, or for `auto` the GPU if there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
