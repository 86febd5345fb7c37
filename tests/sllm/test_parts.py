"""Which weights are which part, and what the parts cost."""

import pytest
from tiny import MEMORY, make_own, make_sllm

from sllm.parts import flops_by_part, part_of


@pytest.mark.parametrize("make", [lambda: make_sllm(**MEMORY), make_own, lambda: make_own("gpt2")])
def test_every_weight_has_a_part_and_every_part_weights(make):
    model = make()
    parts = {name: part_of(name, model.config) for name, _ in model.named_parameters()}
    assert set(parts.values()) == {"joints", "outer", "trunk", "table"}
    assert [name for name, part in parts.items() if part == "table"] == [
        name for name, weight in model.named_parameters() if weight is model.get_input_embeddings().weight
    ]


def test_layers_of_its_own_are_outer_ones():
    model = make_own()
    found = [part_of(f"trunk.layers.{i}.mlp.up_proj.weight", model.config) for i in range(5)]
    assert found == ["outer", "trunk", "trunk", "outer", "outer"]
    model.rates = {"trunk": 0.5}
    assert [model.rate_of(f"trunk.layers.{i}.mlp.up_proj.weight") for i in (0, 1)] == [1.0, 0.5]


def test_cost_of_own_layers_grows_with_what_runs():
    few, many = make_own(upper_layers=1), make_own(upper_layers=3)
    one, other = (flops_by_part(model, 100, 10) for model in (few, many))
    assert one["decoder"] < other["decoder"]
    assert one["trunk"] > other["trunk"]
    assert one["vocabulary"] == flops_by_part(few, 100, 20)["vocabulary"]  # an end by a flag has no product
    assert one["vocabulary"] < flops_by_part(make_own(upper_layers=1, end_flag=False), 100, 10)["vocabulary"]
