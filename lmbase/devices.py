"""Where a recipe computes."""

import torch


def choose_device(name: str) -> str:
    """`name`, or for `auto` the GPU if there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
