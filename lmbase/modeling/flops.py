"""Floating-point operations of a forward pass by formula: two for each weight that a vector is multiplied with."""

from torch import nn
from transformers.pytorch_utils import Conv1D

FORWARD_AND_BACKWARD = 3  # a backward pass costs two forward passes


def linear_flops(module: nn.Module) -> float:
    """Operations of all linear layers below `module`, GPT-2's Conv1D among them, for one vector that passes through
    each."""
    return 2.0 * sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear | Conv1D))


def attention_flops(width: int, num_layers: int, mean_context: float) -> float:
    """Scores and weighted sums of one query, `width` over all heads, over the positions that it sees on average."""
    return 4.0 * width * num_layers * mean_context
