"""Random numbers that belong to a sample, however samples are put into batches and shared out among processes.

N samples, W numbers of each.
"""

import torch
from torch import Tensor

GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # of splitmix64, as int64
BITS = 23  # of a uniform number: float32 holds the middles of so many intervals of (0, 1)


def mixed(keys: Tensor) -> Tensor:
    """Keys (int64) that differ anyhow -> keys that look random (splitmix64; products wrap around)."""
    x = keys + GOLDEN
    x = (x ^ _right(x, 30)) * FIRST
    x = (x ^ _right(x, 27)) * SECOND
    return x ^ _right(x, 31)


def sample_keys(seed: int, step: int, samples: Tensor) -> Tensor:
    """(N,) keys of samples, by their numbers, in a step of training."""
    base = mixed(mixed(torch.tensor(seed % 2**63)) ^ step)
    return mixed(base ^ samples.long())


def new_keys(number: int, device: torch.device) -> Tensor:
    """(N,) keys drawn from torch's own random state."""
    return torch.randint(2**62, (number,), device=device)


def uniform(keys: Tensor, width: int) -> Tensor:
    """(N,W) numbers in (0, 1), those of a sample decided by its key (N,)."""
    counter = torch.arange(width, device=keys.device)
    return (_right(mixed(keys[:, None] ^ mixed(counter)), 64 - BITS) + 0.5) / 2**BITS


def normal(keys: Tensor, width: int) -> Tensor:
    """(N,W) numbers from the standard normal distribution."""
    return (2 * uniform(keys, width) - 1).erfinv() * 2**0.5


def _right(x: Tensor, bits: int) -> Tensor:
    """A shift that fills with zeros; that of int64 repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
