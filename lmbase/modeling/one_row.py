"""The newest token of one text, read about as fast as memory hands out the weights: on a CPU most of a step's time goes
into products of one row, which PyTorch's libraries make at a third to a half of that speed.

A weight is laid out anew, in bundles of as many outputs as a vector register has lanes, and torch.compile makes of the
plain formula a loop that reads it from front to end, one output a lane. So all models whose blocks compile have it.

O outputs, D inputs, B texts, K key-value heads, G query heads of each, C positions held, d width of a head.
"""

import copy
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from lmbase.modeling.int8 import Int8Linear

LANES = 16  # 8 and 32 were slower with AVX-512, in bf16 and int8

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class RowLinear(nn.Module):
    """A linear layer for one row, as compiled code reads it fast. Written out without a compiler it is slow.

    Args:
        weight: (O, D), copied. bias: (O,). scale: (O,), of a weight in eight bits.
    """

    bundles: Tensor
    scale: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None):
        super().__init__()
        self.num_outputs, self.num_inputs = weight.shape
        padded = F.pad(weight.detach(), (0, 0, 0, -self.num_outputs % LANES))
        self.register_buffer("bundles", padded.view(-1, LANES, self.num_inputs).transpose(1, 2).contiguous())
        self.register_buffer("scale", scale)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) with one row -> (..., O)."""
        exact = torch.promote_types(x.dtype, torch.float32)  # sums, as in the libraries' products
        row = x.reshape(1, self.num_inputs, 1).to(exact)
        y = (self.bundles.to(exact) * row).sum(1).view(-1)[: self.num_outputs]
        if self.scale is not None:
            y = y * self.scale
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.num_outputs)


_twins: WeakKeyDictionary[nn.Module, tuple[list, nn.Module, RowLinear]] = WeakKeyDictionary()


def row_twin(module: ModuleT, table: Tensor) -> tuple[ModuleT, RowLinear]:
    """A copy of a module that reads one row at a time, for compiled code, and a layer that makes logits. The copy shares
    all weights but those of linear layers, which it holds once more; both are made again where weights have changed.

    Args:
        module: what contains blocks of a trunk. Those of the copy are compiled once, however many there are.
        table: (V, D), what makes logits of states.
    """
    linear = [part for part in module.modules() if type(part) in (nn.Linear, Conv1D, Int8Linear)]
    now = [_fingerprint(weight) for weight in (table, *(part.weight for part in linear))]
    if module not in _twins or _twins[module][0] != now:
        _twins.pop(module, None)  # no memory for two
        _twins[module] = now, _copied(module, linear), RowLinear(table)
    _, twin, head = _twins[module]
    return cast(ModuleT, twin), head


def _copied(module: nn.Module, linear: list[nn.Module]) -> nn.Module:
    shared: list = [*module.parameters(), *module.buffers()]
    # one configuration of both, so that the way to attend is changed for both
    shared += [part.config for part in module.modules() if isinstance(getattr(part, "config", None), PreTrainedConfig)]
    memo: dict[int, object] = {id(one): one for one in shared}
    for part in linear:
        weight, bias = cast(Tensor, part.weight), cast(Tensor | None, part.bias)
        scale = cast(Tensor | None, getattr(part, "scale", None))
        memo[id(part)] = RowLinear(weight.T if isinstance(part, Conv1D) else weight, bias, scale)
    twin = copy.deepcopy(module, memo).eval()
    for block in twin.modules():
        if isinstance(block, GradientCheckpointingLayer):  # Transformers' blocks
            block.forward = MethodType(_once_for_all(type(block)), block)
    return twin


@cache
def _once_for_all(kind: type[nn.Module]) -> Callable:
    return torch.compiler.nested_compile_region(kind.forward)


def _fingerprint(weight: Tensor) -> tuple:
    """Tells whether a weight is another, also where it was changed in place, at the price of reading it once."""
    flat = weight.detach().reshape(-1)
    whole = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.itemsize % 8 == 0
    return weight.dtype, weight.shape, (flat.view(torch.int64) if whole else flat).sum().item()
