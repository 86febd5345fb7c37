"""Rates and limits of a machine: what is counted, and that each figure is measured once."""

import torch
from torch import nn

from lmbase.benchmarking.roofline import Machine, linear_shapes


def test_linear_layers_are_counted_by_shape():
    block = nn.ModuleDict({"a": nn.Linear(3, 5), "memory": nn.Linear(3, 5), "n": nn.LayerNorm(3), "b": nn.Linear(5, 3)})
    assert linear_shapes(block) == {(5, 3): 2, (3, 5): 1}
    assert linear_shapes(block, block, without=("memory",)) == {(5, 3): 2, (3, 5): 2}


def test_figures_are_measured_once_and_add_up(monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**16)
    machine = Machine(torch.float32, "cpu")
    shapes = linear_shapes(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 128))
    seconds = machine.seconds(shapes, 2)
    assert seconds == 2 * machine.product_seconds(2, (64, 64)) + machine.product_seconds(2, (128, 64)) > 0
    assert machine.num_bytes(shapes) == 4 * (2 * 64 * 64 + 128 * 64)
    assert machine.read_rate == machine.read_rate > 0
