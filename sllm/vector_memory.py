"""Kinds of a memory of sentence vectors: what the decoder reads of the vectors that earlier sentences were encoded as
(Thought Gestalt, arXiv 2512.25026).

A new kind is one class here and one line in `VECTOR_MEMORIES`.
"""

import torch.nn.functional as F
from torch import Tensor


class Trained:
    """The vectors, brought to one size. What later sentences need of them reaches the encoder as a gradient
    (published)."""

    def read(self, vectors: Tensor) -> Tensor:
        """Of vectors (..., D) what keys and values are made of (..., D)."""
        return F.layer_norm(vectors, vectors.shape[-1:])


class Detached(Trained):
    """The same vectors, but the gradient is cut: the encoder does not learn what later sentences need."""

    def read(self, vectors: Tensor) -> Tensor:
        return super().read(vectors.detach())


class Marker(Trained):
    """A control: in place of every vector the same one, so that only the number of earlier sentences can be read. What
    kind of thing stands in a place is told to the decoder anyway, so nothing is left to be learned here."""

    def read(self, vectors: Tensor) -> Tensor:
        return vectors.new_zeros(vectors.shape)


VECTOR_MEMORIES: dict[str, Trained] = {"trained": Trained(), "detached": Detached(), "marker": Marker()}
