"""Kinds of next vectors: what the decoder reads of a trunk state, in place of the vector that an encoder would make of
the sentence to come.

A new kind is one class here and one line in `NEXT_VECTORS`.
"""

from torch import nn
from transformers import initialization as init


class Projection:
    """A linear layer on the trunk's state (published)."""

    def new(self, width: int) -> nn.Module:
        """The layer: states (..., D) -> vectors (..., D)."""
        return nn.Linear(width, width)

    def start(self, layer: nn.Module) -> None:
        """At zero: the decoder first writes as it does without a sentence vector, not what a strange one says."""
        assert isinstance(layer, nn.Linear)
        init.zeros_(layer.weight)
        init.zeros_(layer.bias)


NEXT_VECTORS: dict[str, Projection] = {"projection": Projection()}
