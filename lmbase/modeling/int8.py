"""Weights in eight bits, for writing on a CPU: what a new token needs is read in half the bytes of bf16.

The product is PyTorch's own, which optimum-quanto calls, too, for as many rows as come and behind a tensor subclass.
N rows, D inputs, O outputs.
"""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# PyTorch's kernel takes row after row; with more of them (a prompt) a product in the rows' own dtype is faster, though
# it has to make a matrix of that dtype first. A draft's pass should not: the two round differently.
FEW_ROWS = 32
WIDTH_STEP = 32  # it reads so many inputs at once and does not look where a row ends


class Int8Linear(nn.Module):
    """A linear layer that holds its weight (O, D) as integers of -127..127, each output's with a scale of its own.

    Raises:
        ValueError: this PyTorch has no product for such weights, the weight is not on a CPU, or of a width that the
            product cannot read.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        if not hasattr(torch, "_weight_int8pack_mm"):
            raise ValueError(f"PyTorch {torch.__version__} has no product of int8 weights: install 2.11 to 2.13.")
        if weight.device.type != "cpu":
            raise ValueError(f"Weights in int8 are for CPUs, and these are on {weight.device}: write in bf16 there.")
        if weight.shape[1] % WIDTH_STEP:
            raise ValueError(f"Weights in int8 need a width that {WIDTH_STEP} divides, not {weight.shape[1]}: try bf16")
        scale = (weight.float().abs().amax(1) / 127).clamp(min=1e-8).to(weight.dtype)  # (O,)
        self.register_buffer("weight", (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8).contiguous())
        self.register_buffer("scale", scale)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (N,D)
        if 0 < len(rows) <= FEW_ROWS:
            y = torch._weight_int8pack_mm(rows.contiguous(), self.weight, self.scale)  # (N,O)
        else:
            y = (rows @ self.weight.to(x.dtype).T) * self.scale
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], len(self.weight))


def linear_layers_to_int8(model: nn.Module) -> None:
    """Replace the linear layers below, all whose width the kernel can read, by layers with weights in eight bits. For
    inference: these have no gradients."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Linear:
                weight, bias = layer.weight, layer.bias
            elif type(layer) is Conv1D:
                weight, bias = layer.weight.T, layer.bias
            else:
                continue
            if weight.shape[1] % WIDTH_STEP == 0:
                setattr(module, name, Int8Linear(weight.detach(), None if bias is None else bias.detach()))


@torch.no_grad()
def round_to_int8(model: nn.Module, table: Tensor) -> None:
    """Round what `linear_layers_to_int8` would replace, and a vocabulary table, to values that eight bits hold; the
    dtype stays, so that a likelihood can be computed as ever."""
    weights = [table]
    for layer in model.modules():
        if type(layer) is nn.Linear:
            weights.append(layer.weight)
        elif type(layer) is Conv1D:
            weights.append(layer.weight.T)
    for weight in weights:
        if weight.shape[1] % WIDTH_STEP == 0:
            rounded = Int8Linear(weight.detach())
            weight.copy_(rounded.weight * rounded.scale[:, None])
