"""Keys and values of texts that grow by different numbers of tokens.

B texts, H heads, R rows of a forward pass, C positions held, d width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPast

# What Transformers' models call their cache, where they take one and where they give it back: from 5.24 on by its new
# name; the old one is announced to go with 5.40.
CACHE_KEY = "cache" if any(field.name == "cache" for field in fields(BaseModelOutputWithPast)) else "past_key_values"


def visible_rows(within: Tensor, starts: Tensor, size: int) -> Tensor:
    """(B, 1, R, C) bool: of C = `size` positions those that each of R new rows sees. These are all before `starts`
    (B,), where the first new row stands, and of the new rows what `within` (R, R) says."""
    r = len(within)
    offset = torch.arange(size, device=starts.device) - starts[:, None]  # (B, C) from each text's end
    new = within[:, offset.clamp(0, r - 1)].transpose(0, 1)  # (B, R, C)
    return ((offset < 0)[:, None] | (new & ((offset >= 0) & (offset < r))[:, None]))[:, None]


@dataclass
class FixedRows:
    """A `RowCache` of fixed size as compiled code sees it in one pass: tensors alone say where rows stand, so shapes
    recur from pass to pass."""

    layers: list[tuple[Tensor, Tensor]] | dict[int, tuple[Tensor, Tensor]]  # keys and values (B, H, C, d) by number
    starts: Tensor  # (B,) where the pass begins
    even = False

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Write (B, H, R, d) from the starts on; returns all C positions."""
        place = self.places(keys.shape[2])[:, None, :, None].expand_as(keys)
        for held, new in zip(self.layers[layer_idx], (keys, values), strict=True):
            held.scatter_(2, place, new.to(held.dtype))
        return self.layers[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # the caller says positions and mask

    def places(self, num_rows: int) -> Tensor:
        return self.starts[:, None] + torch.arange(num_rows, device=self.starts.device)

    def visible(self, within: Tensor) -> Tensor:
        keys, _ = next(iter(self.layers.values() if isinstance(self.layers, dict) else self.layers))
        return visible_rows(within, self.starts, keys.shape[2])


class RowCache:
    """Transformers' cache interface for attention layers, with a length of its own for each text.

    A forward pass writes R rows behind each text's length; `keep` says which of them stay. What is behind a length is
    overwritten later, so nothing is ever cut off or copied but the accepted rows of a tree.

    Args:
        capacity: positions to begin with; more are added where they are needed.
    """

    def __init__(self, batch_size: int, capacity: int, device: torch.device):
        self.lengths = [0] * batch_size
        self.capacity = capacity
        self.device = device
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values (B, H, C, d)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Write (B, H, R, d) behind the texts' lengths; returns all that this pass may look at."""
        b, h, r = keys.shape[:3]
        if layer_idx not in self.layers:
            empty = [x.new_zeros(b, h, self.capacity, x.shape[3]) for x in (keys, values)]
            self.layers[layer_idx] = (empty[0], empty[1])
        stop = max(self.lengths) + r
        held_keys, held_values = self.layers[layer_idx]
        if stop > held_keys.shape[2]:  # the longest text and the most rows may be of two texts, so no bound is sharp
            room = max(stop + r, 2 * held_keys.shape[2]) - held_keys.shape[2]
            held_keys, held_values = (F.pad(held, (0, 0, 0, room)) for held in (held_keys, held_values))
            self.layers[layer_idx] = (held_keys, held_values)
        place = self.places(r)
        for held, new in ((held_keys, keys), (held_values, values)):
            if isinstance(place, slice):
                held[:, :, place] = new
            else:
                held[torch.arange(b, device=self.device)[:, None], :, place] = new.transpose(1, 2)
        return held_keys[:, :, :stop], held_values[:, :, :stop]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(self.lengths)

    @property
    def starts(self) -> Tensor:
        """(B,) where a pass begins."""
        return torch.tensor(self.lengths, device=self.device)

    @property
    def even(self) -> bool:
        """All texts are of one length."""
        return len(set(self.lengths)) == 1

    def places(self, num_rows: int) -> slice | Tensor:
        """Where a pass of R rows stands: a slice for all texts, or (B, R)."""
        if self.even:
            return slice(self.lengths[0], self.lengths[0] + num_rows)
        return self.starts[:, None] + torch.arange(num_rows, device=self.device)

    def visible(self, within: Tensor) -> Tensor:
        """(B, 1, R, C) bool: what each of R new rows sees of all that is held, given what it sees of the new (R, R)."""
        r, longest = len(within), max(self.lengths)
        if self.even:
            past = within.new_ones(r, longest)
            return torch.cat([past, within], dim=1).expand(len(self.lengths), 1, -1, -1)
        return visible_rows(within, self.starts, longest + r)

    def keep(self, rows: Sequence[Sequence[int]]) -> None:
        """For each text the rows of the last pass that stay, in their order; the others are forgotten."""
        for b, kept in enumerate(rows):
            moved = [(place, row) for place, row in enumerate(kept) if place != row]
            if moved:
                start = self.lengths[b]
                to, origin = (torch.tensor(side, device=self.device) + start for side in zip(*moved, strict=True))
                for keys, values in self.layers.values():
                    keys[b, :, to] = keys[b, :, origin]
                    values[b, :, to] = values[b, :, origin]
            self.lengths[b] += len(kept)

    def select(self, texts: Sequence[int]) -> None:
        """Go on with these texts only, in this order."""
        index = torch.tensor(texts, device=self.device)
        self.lengths = [self.lengths[b] for b in texts]
        self.layers = {number: (keys[index], values[index]) for number, (keys, values) in self.layers.items()}

    @property
    def position_bytes(self) -> float:
        """Bytes of the keys and values of one position, in all layers."""
        return sum(t.nbytes / (t.shape[0] * t.shape[2]) for layer in self.layers.values() for t in layer)

    @property
    def num_bytes(self) -> int:
        """Bytes of the keys and values that stand for text."""
        return round(self.position_bytes * sum(self.lengths))


# What a model's last call used and no call uses now, by name.
_free: WeakKeyDictionary[nn.Module, dict[str, RowCache]] = WeakKeyDictionary()


def take_fixed_cache(
    owner: nn.Module, name: str, num_layers: int, shape: tuple[int, int, int, int], like: Tensor
) -> RowCache:
    """An empty cache whose layers (B, H, C, d) stay where they are while no text outgrows C positions: the one that the
    model `owner` gave back last under this name, if that was alike, since CUDA graphs rely on addresses.

    Args:
        like: has its dtype and device.
    """
    cache = _free.get(owner, {}).pop(name, None)
    held = [x for layer in cache.layers.values() for x in layer] if cache is not None else []
    wanted = shape, like.dtype, like.device
    if cache is None or len(held) != 2 * num_layers or any((x.shape, x.dtype, x.device) != wanted for x in held):
        cache = RowCache(shape[0], shape[2], like.device)
        with torch.inference_mode(False):  # or a later call could not write into them
            for number in range(num_layers):
                cache.layers[number] = like.new_zeros(shape), like.new_zeros(shape)
        for layer in cache.layers.values():
            for x in layer:
                torch._dynamo.mark_static_address(x)
    for x in held:
        x.zero_()  # what is masked must be finite
    cache.lengths = [0] * shape[0]
    return cache


def give_back(owner: nn.Module, name: str, cache: RowCache) -> None:
    """Keep a cache for the next call; it holds its memory as long as the model lives."""
    _free.setdefault(owner, {})[name] = cache
