"""Kinds of heads: how they begin on a pretrained model."""

import pytest
import torch
from torch import nn

from multitoken.heads import HEAD_KINDS


def block(**layers: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(layers)


def test_an_anticausal_head_begins_as_a_copy_that_adds_nothing():
    origin = block(
        self_attn=block(o_proj=nn.Linear(4, 4)), mlp=block(up_proj=nn.Linear(4, 8), down_proj=nn.Linear(8, 4))
    )
    head = block(self_attn=block(o_proj=nn.Linear(4, 4)), mlp=block(up_proj=nn.Linear(4, 8), down_proj=nn.Linear(8, 4)))
    HEAD_KINDS["anticausal"].copy_block(head, origin.state_dict(), 2)
    zero = {name for name, weight in head.named_parameters() if not weight.any()}
    assert zero == {f"{name}.{kind}" for name in ("self_attn.o_proj", "mlp.down_proj") for kind in ("weight", "bias")}
    HEAD_KINDS["anticausal"].copy_block(head, origin.state_dict(), 1)
    assert all(torch.equal(weight, origin.state_dict()[name]) for name, weight in head.state_dict().items())


@pytest.mark.parametrize("name", ["dense", "o_proj"])
def test_an_anticausal_head_of_unknown_names_is_refused(name):
    """It would begin as a copy that adds something, so that head 1 would not be the model."""
    origin = block(self_attn=nn.ModuleDict({name: nn.Linear(4, 4)}), mlp=block(dense_4h_to_h=nn.Linear(8, 4)))
    with pytest.raises(ValueError, match="LAST_LAYERS"):
        HEAD_KINDS["anticausal"].copy_block(origin, origin.state_dict(), 2)
