"""Weights in eight or four bits, for writing on a CPU: what a new token needs is read in about a half or a third of the
bytes of bf16.

The products are PyTorch's own; optimum-quanto and torchao call the same kernels, for any number of rows, behind a
tensor subclass. N rows, D inputs, O outputs, G = D / 32 groups of inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# PyTorch's kernels take row after row; with more of them (a prompt) a product in the rows' own dtype is faster, though
# it has to make a matrix of that dtype first. A draft's pass should not: the two round differently.
FEW_ROWS = 32
GROUP = 32  # inputs that the kernels read at once, not looking where a row ends; in four bits they share a scale
OUTPUTS = 16  # in four bits the kernel writes so many at once


class PackedLinear(nn.Module, ABC):
    """A linear layer that holds its weight (O, D) in fewer bits. For inference: it has no gradients.

    Raises:
        ValueError: this PyTorch has no product for such weights, the weight is not on a CPU, or of a width that the
            product cannot read.
    """

    name: str  # as `--weights` takes it
    of_tables: str  # the kind that a vocabulary's matrix is held in beside
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        if self.kernel() is None:
            raise ValueError(
                f"PyTorch {torch.__version__} has no product of {self.name} weights: install 2.11 to 2.13."
            )
        if weight.device.type != "cpu":
            raise ValueError(f"Weights in {self.name} are for CPUs, and these are on {weight.device}: write in bf16.")
        if weight.shape[1] % GROUP:
            raise ValueError(
                f"Weights in {self.name} need a width that {GROUP} divides, not {weight.shape[1]}: try bf16."
            )
        self.num_outputs = len(weight)
        self.pack(weight)
        self.register_buffer("bias", bias)

    @staticmethod
    @abstractmethod
    def kernel() -> Callable | None:
        """PyTorch's, if it has one."""

    @abstractmethod
    def pack(self, weight: Tensor) -> None:
        """Make buffers of a weight (O, D)."""

    @abstractmethod
    def unpacked(self) -> Tensor:
        """The weight (O, D) that is held, in fp32."""

    @abstractmethod
    def product(self, rows: Tensor) -> Tensor:
        """Rows (N, D) -> (N, O) by the kernel."""

    def product_of_many(self, rows: Tensor) -> Tensor:
        return rows @ self.unpacked().to(rows.dtype).T

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (N,D)
        y = self.product(rows.contiguous()) if 0 < len(rows) <= FEW_ROWS else self.product_of_many(rows)
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], self.num_outputs)


class Int8Linear(PackedLinear):
    """Integers of -127..127, each output's with a scale of its own."""

    name = of_tables = "int8"
    weight: Tensor
    scale: Tensor

    @staticmethod
    def kernel() -> Callable | None:
        return getattr(torch, "_weight_int8pack_mm", None)

    def pack(self, weight: Tensor) -> None:
        scale = (weight.float().abs().amax(1) / 127).clamp(min=1e-8).to(weight.dtype)  # (O,)
        # In fp32: quotients in bf16 are rounded to halves from 64 on, and rounded once more they end up one step off.
        codes = (weight.float() / scale.float()[:, None]).round().clamp(-127, 127)
        self.register_buffer("weight", codes.to(torch.int8).contiguous())
        self.register_buffer("scale", scale)

    def unpacked(self) -> Tensor:
        return self.weight.float() * self.scale.float()[:, None]

    def product(self, rows: Tensor) -> Tensor:
        if rows.dtype == torch.float64:  # which the kernel cannot read
            return self.product_of_many(rows)
        return torch._weight_int8pack_mm(rows, self.weight, self.scale)

    def product_of_many(self, rows: Tensor) -> Tensor:
        return (rows @ self.weight.to(rows.dtype).T) * self.scale


class Int4Linear(PackedLinear):
    """Integers of 0..15, each 32 inputs of an output with a scale and a middle of their own, both in bf16: what GGUF
    calls Q4_1, whose weights are held as they are, but for the rounding of these two. Products are made in bf16.

    A vocabulary's matrix has eight bits, as in such files: in four, SmolLM2-135M needs 1.7% more bits per byte."""

    name = "int4"
    of_tables = "int8"
    codes: Tensor
    scales: Tensor
    laid_out: Tensor
    group: Tensor

    @staticmethod
    def kernel() -> Callable | None:
        # It takes the group's size as a tensor; the one that takes a number is compiled wrongly in nested regions.
        return getattr(torch.ops.quantized, "int4mm_packed_weight_cpu", None)

    def pack(self, weight: Tensor) -> None:
        values = F.pad(weight.float(), (0, 0, 0, -len(weight) % OUTPUTS)).unflatten(1, (-1, GROUP))  # (O',G,32)
        low, high = values.amin(2), values.amax(2)  # (O',G)
        scale = ((high - low) / 15).bfloat16().float()
        zero = (low / 2 + high / 2 + scale / 2).bfloat16().float()  # the value of code 8
        codes = ((values - zero[..., None]) / scale.clamp(min=1e-8)[..., None] + 8).round().clamp(0, 15)
        flat = codes.flatten(1).to(torch.uint8)  # (O',D)
        half = flat.shape[1] // 2
        self.register_buffer("codes", flat[:, :half] | flat[:, half:] << 4)  # (O',D/2)
        self.register_buffer("scales", torch.stack([scale.T, zero.T], dim=2).bfloat16())  # (G,O',2)
        self.register_buffer("group", torch.tensor(GROUP))
        self.register_buffer("laid_out", torch.ops.aten._convert_weight_to_int4pack_for_cpu(flat.int(), 1))

    def unpacked(self) -> Tensor:
        half = self.codes.shape[1]
        values = torch.empty(len(self.codes), 2 * half)
        values[:, :half], values[:, half:] = self.codes & 15, self.codes >> 4
        scale, zero = self.scales.float().permute(2, 1, 0)[..., None]  # (O',G,1) each
        values.unflatten(1, (-1, GROUP)).sub_(8).mul_(scale).add_(zero)
        return values[: self.num_outputs]

    def product(self, rows: Tensor) -> Tensor:
        y = torch.ops.quantized.int4mm_packed_weight_cpu(
            rows.bfloat16(), self.laid_out, self.group, self.scales.bfloat16()
        )
        return y[:, : self.num_outputs].to(rows.dtype)


KINDS: dict[str, type[PackedLinear]] = {kind.name: kind for kind in (Int8Linear, Int4Linear)}


def packed(weight: Tensor, kind: str, bias: Tensor | None = None) -> PackedLinear:
    """A layer with a weight (O, D) of a kind; ValueError for one that is not known, or as for `PackedLinear`."""
    return _kind(kind)(weight.detach(), None if bias is None else bias.detach())


def packed_table(table: Tensor, kind: str) -> PackedLinear:
    """A vocabulary's matrix (V, D) as it goes with layers of a kind; errors as for `packed`."""
    return packed(table, _kind(kind).of_tables)


def _kind(name: str) -> type[PackedLinear]:
    if name not in KINDS:
        raise ValueError(f"weights={name!r} are not known; known are {', '.join(KINDS)}.")
    return KINDS[name]


def check_unpacked(model: nn.Module) -> None:
    """Raise ValueError for a model some of whose weights are in fewer bits."""
    for name, part in model.named_modules():
        if isinstance(part, PackedLinear):
            raise ValueError(
                f"{type(model).__name__} holds weights in {part.name} ({name}), which are there to write with: load "
                "the model again for anything else."
            )


def _weight_of(layer: nn.Module) -> Tensor | None:
    """(O, D) of a linear layer that the kernels can read; None of others."""
    if type(layer) is nn.Linear:
        weight = layer.weight
    elif type(layer) is Conv1D:
        weight = layer.weight.T
    else:
        return None
    return weight if weight.shape[1] % GROUP == 0 else None


def pack_linear_layers(model: nn.Module, kind: str, but: nn.Module | None = None) -> None:
    """Replace the linear layers below, all whose width the kernels can read, by layers with weights of a kind.

    Args: but: a part that stays as it is, with all that it contains.

    Raises:
        ValueError: some are packed already, and whole weights are needed; as for `PackedLinear`.
    """
    check_unpacked(model)
    kept = set() if but is None else set(but.modules())
    having = [part for part in model.modules() if hasattr(part, "get_output_embeddings")]
    tables = {cast(PreTrainedModel, part).get_output_embeddings() for part in having}
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if layer not in kept and (weight := _weight_of(layer)) is not None:
                of_layer = _kind(kind).of_tables if layer in tables else kind
                setattr(module, name, packed(weight, of_layer, cast(Tensor | None, layer.bias)))


@torch.no_grad()
def round_weights(model: nn.Module, table: Tensor, kind: str) -> None:
    """Round what `pack_linear_layers` would replace, and a vocabulary table, to values that a kind holds; the dtype
    stays, so that a likelihood can be computed as ever."""
    weights = [weight for layer in model.modules() if (weight := _weight_of(layer)) is not None]
    for weight in weights:
        if weight.data_ptr() != table.data_ptr():  # a head's weight is the table itself
            weight.copy_(packed(weight, kind).unpacked())
    if table.shape[1] % GROUP == 0:
        table.copy_(packed_table(table, kind).unpacked())
