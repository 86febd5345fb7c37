"""Operations of a forward pass by formula: those that PyTorch counts."""

import pytest
import torch
from tiny import LMS, make_lm
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from lmbase.modeling.flops import attention_flops, linear_flops
from lmbase.modeling.token_lm import TokenLM

IDS = torch.tensor([[2, 10, 11, 12, 13], [2, 20, 21, 22, 23]])


@torch.no_grad()
@pytest.mark.parametrize("shape", LMS)
def test_operations_are_those_that_pytorch_counts(shape):
    """Attention without kernel computes all pairs of positions: as many as a context of twice the length has."""
    lm = make_lm(shape)
    lm.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        lm(IDS)
    # Some versions of Transformers make the angles of positions by a matrix product.
    angles = sum(sum(of.values()) for name, of in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    assert TokenLM(lm).flops(IDS.numel(), 2 * IDS.shape[1]) == counter.get_total_flops() - angles


def test_two_operations_for_each_weight_and_none_for_tables_biases_and_norms():
    model = nn.Sequential(nn.Embedding(9, 3), nn.LayerNorm(3), nn.Linear(3, 4), nn.Sequential(Conv1D(5, 4)))
    assert linear_flops(model) == 2 * (3 * 4 + 4 * 5)
    assert linear_flops(nn.LayerNorm(3)) == 0


def test_attention_multiplies_each_position_with_keys_and_with_values():
    """One query of width 8 over 10 positions in 3 layers: 8 * 10 products for scores, as many for the sum."""
    assert attention_flops(8, 3, 10) == 2 * (8 * 10 + 8 * 10) * 3
    assert attention_flops(8, 3, 0) == 0
