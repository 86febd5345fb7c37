"""The newest token of one text, read about as fast as memory hands out the weights: on a CPU most of a step's time goes
into products of one row, which PyTorch's libraries make at a third to a half of that speed.

A weight is laid out anew, in bundles of as many outputs as a vector register has lanes, and torch.compile makes of the
plain formula a loop that reads it from front to end, one output a lane. So all models whose blocks compile have it. How
many lanes are best is tried (`compiling.lanes_of`): it is another number for each dtype and processor, and a wrong one
is up to four times as slow.

O outputs, D inputs, B texts, K key-value heads, G query heads of each, C positions held, d width of a head.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from lmbase.modeling.cache import CACHE_KEY, FixedRows
from lmbase.modeling.packed import Int8Linear, PackedLinear

LANES = (16, 32, 8)  # that are tried; the first where nothing is

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class RowLinear(nn.Module):
    """A linear layer for one row, as compiled code reads it fast. Written out without a compiler it is slow.

    Args:
        weight: (O, D), copied. bias: (O,). scale: (O,), of a weight in eight bits.
        lanes: outputs of a bundle.
    """

    bundles: Tensor
    scale: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None, lanes: int = LANES[0]):
        super().__init__()
        self.num_outputs, self.num_inputs = weight.shape
        padded = F.pad(weight.detach(), (0, 0, 0, -self.num_outputs % lanes))
        self.register_buffer("bundles", padded.view(-1, lanes, self.num_inputs).transpose(1, 2).contiguous())
        self.register_buffer("scale", scale)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) with one row -> (..., O)."""
        exact = _exact(x.dtype)
        row = made_once(x.to(exact).reshape(1, self.num_inputs, 1))
        y = (self.bundles.to(exact) * row).sum(1).view(-1)[: self.num_outputs]
        if self.scale is not None:
            y = y * self.scale
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.num_outputs)


def row_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Attention of one position, in sums that compiled code makes loops of: a product for each head costs more than the
    keys and values that it reads.

    Args:
        query: (B, K*G, 1, d). keys, values: (B, K, C, d). mask: (B, 1, 1, C) True where it may look.

    Returns:
        (B, 1, K*G, d).
    """
    exact = _exact(query.dtype)
    groups = made_once((query.to(exact) * scaling).unflatten(1, (keys.shape[1], -1)))  # (B,K,G,1,d)
    scores = (groups * keys[:, :, None].to(exact)).sum(-1)  # (B,K,G,C)
    scores = scores.masked_fill(~mask, torch.finfo(exact).min)
    shares = (scores - scores.amax(-1, keepdim=True)).exp()
    y = (shares[..., None] * values[:, :, None].to(exact)).sum(-2) / shares.sum(-1, keepdim=True)  # (B,K,G,d)
    return y.to(query.dtype).flatten(1, 2)[:, None]


def made_once(x: Tensor) -> Tensor:
    """`x`, which compiled code would else make anew wherever it is read: 96 times for a norm in front of 1,536
    outputs."""
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride()) if torch.compiler.is_compiling() else x


def _exact(dtype: torch.dtype) -> torch.dtype:
    """What sums are made in, as in the libraries' products."""
    return torch.promote_types(dtype, torch.float32)


@dataclass
class _Position:
    """What is held of one layer, as it is when the newest position is added: nothing is written, so nothing is copied.

    Args:
        keys, values: (1, K, C, d). newest: (1, 1, C, 1) True where the newest position stands.
    """

    keys: Tensor
    values: Tensor
    newest: Tensor
    added: tuple[Tensor, Tensor] = ()  # type: ignore[assignment]  # (1, K, 1, d) each

    def update(self, keys: Tensor, values: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        self.added = keys, values
        return torch.where(self.newest, keys, self.keys), torch.where(self.newest, values, self.values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # the caller says positions and mask


_twins: WeakKeyDictionary[nn.Module, tuple[list, nn.Module, nn.Module]] = WeakKeyDictionary()


def row_twin(
    module: ModuleT, table: Tensor | PackedLinear, lanes_of: Callable[[torch.dtype], int] = lambda dtype: LANES[0]
) -> tuple[ModuleT, nn.Module]:
    """A copy of a module that reads one row at a time, for compiled code, and a layer that makes logits. The copy
    shares all weights but those of linear layers, which it holds once more; both are made again where weights or
    settings have changed.

    Args:
        module: what contains blocks of a trunk. Those of the copy are compiled once, however many there are.
        table: (V, D), what makes logits of states, or what holds it in fewer bits.
        lanes_of: for weights of a dtype; `compiling.lanes_of` tries some.
    """
    of_table = fingerprints(table) if isinstance(table, PackedLinear) else [_fingerprint(table)]
    now = [*of_table, *fingerprints(module), *_settings_of(module)]
    if module not in _twins or _twins[module][0] != now:
        _twins.pop(module, None)  # no memory for two
        rows = {id(part): row for part in module.modules() if (row := _for_rows(part, lanes_of)) is not None}
        if isinstance(table, Tensor):
            head: nn.Module = RowLinear(table, lanes=lanes_of(table.dtype))
        else:
            head = rows.get(id(table), table)  # the one that the copy has, not another
        _twins[module] = now, _copied(module, rows), head
    _, twin, head = _twins[module]
    return cast(ModuleT, twin), head


def _settings_of(module: nn.Module) -> list[str]:
    """What compiled code has of the configurations: windows, end marks, the way to attend."""
    found = {id(c): c for part in module.modules() if isinstance(c := getattr(part, "config", None), PreTrainedConfig)}
    return [f"{config._attn_implementation} {config.to_json_string()}" for config in found.values()]


def _for_rows(layer: nn.Module, lanes_of: Callable[[torch.dtype], int]) -> nn.Module | None:
    """What stands for a linear layer in a copy; None for other modules, which are copied as they are."""
    part: Any = layer
    if type(part) in (nn.Linear, Int8Linear):
        return RowLinear(part.weight, part.bias, getattr(part, "scale", None), lanes_of(part.weight.dtype))
    if type(part) is Conv1D:
        return RowLinear(part.weight.T, part.bias, lanes=lanes_of(part.weight.dtype))
    return None


def _copied(module: nn.Module, rows: dict[int, nn.Module]) -> nn.Module:
    """A copy with other layers in the place of some, by their id."""
    shared: list = [*module.parameters(), *module.buffers()]
    # one configuration of both, since steps that are not compiled ask for it
    shared += [part.config for part in module.modules() if isinstance(getattr(part, "config", None), PreTrainedConfig)]
    memo: dict[int, object] = {id(one): one for one in shared} | rows
    twin = copy.deepcopy(module, memo).eval()
    for block in twin.modules():
        if isinstance(block, GradientCheckpointingLayer):  # Transformers' blocks
            block.number = next(part.layer_idx for part in block.modules() if hasattr(part, "layer_idx"))
            block.forward = MethodType(_reader(cast(Any, type(block))), block)
    return twin


@cache
def _reader(kind: type[nn.Module]) -> Callable:
    """The `forward` of blocks of a kind, compiled for one of a trunk's blocks as a region that serves all of them."""
    signature = inspect.signature(kind.forward)
    names = tuple(signature.parameters)[2:]
    in_tuple = str(signature.return_annotation).startswith("tuple")  # OPT's of Transformers 5.3

    def read(block, states, keys, values, newest, options):
        position = _Position(keys, values, newest)
        found = kind.forward(block, states, **{CACHE_KEY: position}, **options)
        added = [new.clone() for new in position.added]  # GPT-2's are views of one product, which a region refuses
        return found[0] if in_tuple else found, *added

    region = torch.compiler.nested_compile_region(read)

    def forward(block: nn.Module, states: Tensor, *args: Any, **options: Any) -> Tensor | tuple[Tensor]:
        options |= dict(zip(names, args, strict=False))
        cache = cast(FixedRows, options.pop(CACHE_KEY))
        layer = cache.layers[cast(int, block.number)]
        newest = torch.arange(layer[0].shape[2], device=states.device) == cache.starts
        states, *added = region(block, states, *layer, newest[None, None, :, None], options)
        for held, new in zip(layer, added, strict=True):  # written outside of the region, which would copy it all
            held[:, :, cache.starts] = new.to(held.dtype)
        return (states,) if in_tuple else states

    return forward


def fingerprints(module: nn.Module) -> list[tuple]:
    """They tell whether any weight is another, also where it was changed in place, at the price of reading all once."""
    return [_fingerprint(weight) for weight in (*module.parameters(), *module.buffers())]


def _fingerprint(weight: Tensor) -> tuple:
    flat = weight.detach().reshape(-1)
    whole = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.itemsize % 8 == 0
    return weight.dtype, weight.shape, (flat.view(torch.int64) if whole else flat).sum().item()
