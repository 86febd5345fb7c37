"""What this machine can do at best, measured: rates of matrix products and of reading, and the products of one token.

A limit here is the time of the weight products that a step cannot do without, each measured alone with as many rows as
the step gives it. Everything else (attention, norms, choosing, Python) stands between a model and its limit.
"""

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from statistics import median

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmbase.benchmarking.timing import alternate, clocked

ROUNDS = 5
BYTES_IN_TURN = 256 * 2**20  # weights of a model are read one after another, so none is still in a processor's cache

Shape = tuple[int, int]  # of a weight: (out, in)


def linear_shapes(*modules: nn.Module, without: tuple[str, ...] = ()) -> Counter[Shape]:
    """How often each shape occurs among the weights of linear layers below; names that contain `without` left out."""
    found: Counter[Shape] = Counter()
    for module in modules:
        for name, layer in module.named_modules():
            if any(part in name for part in without):
                continue
            if isinstance(layer, nn.Linear):
                found[(layer.out_features, layer.in_features)] += 1
            elif isinstance(layer, Conv1D):
                found[(layer.nf, layer.nx)] += 1
    return found


class Machine:
    """Rates of one device and dtype; each is measured once, when it is asked for."""

    def __init__(self, dtype: torch.dtype, device: str):
        self.dtype, self.device = dtype, torch.device(device)
        self._products: dict[tuple[int, Shape], float] = {}

    @cached_property
    def matrix_rate(self) -> float:
        """Floating-point operations per second of large matrix products."""
        n = 2048 if self.device.type == "cpu" else 8192
        a, b = (torch.ones(n, n, device=self.device, dtype=self.dtype) for _ in range(2))
        return 2 * n**3 / _median_seconds(lambda: a @ b)

    @cached_property
    def read_rate(self) -> float:
        """Bytes per second read from memory, by a sum."""
        x = torch.ones(BYTES_IN_TURN // 4, device=self.device)
        return BYTES_IN_TURN / _median_seconds(x.sum)

    def product_seconds(self, rows: int, shape: Shape) -> float:
        """Of rows vectors times one weight, which is read from memory."""
        key = (rows, shape)
        if key in self._products:
            return self._products[key]
        size = shape[0] * shape[1] * self.dtype.itemsize
        weights = [torch.ones(shape, device=self.device, dtype=self.dtype) for _ in range(-(-BYTES_IN_TURN // size))]
        x = torch.ones(rows, shape[1], device=self.device, dtype=self.dtype)

        def all_weights() -> None:
            for weight in weights:
                x @ weight.T

        self._products[key] = _median_seconds(all_weights) / len(weights)
        return self._products[key]

    def seconds(self, shapes: Counter[Shape], rows: int) -> float:
        """Of all these products."""
        return sum(times * self.product_seconds(rows, shape) for shape, times in shapes.items())

    def num_bytes(self, shapes: Counter[Shape]) -> int:
        """Of these weights."""
        return sum(a * b * times for (a, b), times in shapes.items()) * self.dtype.itemsize


def _median_seconds(run: Callable[[], object]) -> float:
    return median(alternate({"": clocked(run)}, ROUNDS)[""])
