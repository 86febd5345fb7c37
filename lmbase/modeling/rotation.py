"""Rotary positions that stay what they are when weights are cast."""

from collections.abc import Callable

from torch import Tensor, nn


class ExactRotation(nn.Module):
    """A family's own rotation, whose frequencies are never rounded.

    They are buffers, which `model.to(torch.bfloat16)` casts with the weights. With 8 bits of a frequency left the angle
    of position 1,000 is off by up to 2 radians; Transformers computes angles in fp32, and so does what it trained.
    """

    def __init__(self, rotation: nn.Module):
        super().__init__()
        self.rotation = rotation

    def forward(self, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return self.rotation(*args, **kwargs)

    def _apply(self, fn: Callable, recurse: bool = True) -> "ExactRotation":
        """All moves and casts of a model pass here."""
        before = dict(self.rotation.named_buffers())
        super()._apply(fn, recurse)
        for name, after in list(self.rotation.named_buffers()):
            if after.dtype != before[name].dtype:
                setattr(self.rotation, name, before[name].to(after.device))
        return self


def keep_rotation_exact(trunk: nn.Module) -> None:
    """Do so for a trunk that rotates."""
    rotation = getattr(trunk, "rotary_emb", None)
    if rotation is not None:
        trunk.rotary_emb = ExactRotation(rotation)
