"""Which weights are which part, and what the parts cost."""

import pytest
from tiny import CAP, MEMORY, make_own, make_processor, make_sllm

from sllm.loading import load_model
from sllm.parts import flops_by_part, part_of

BETWEEN = ("trunk.layers.1", "trunk.layers.2", "own.mean.weigh")


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


def test_layers_that_never_run_are_no_parameters(tmp_path):
    counts = []
    for use_trunk in (True, False):
        model = make_own(use_trunk=use_trunk)
        model.processor = make_processor(cap=CAP)
        model.save_pretrained(tmp_path / str(use_trunk))
        counts.append(load_model(str(tmp_path / str(use_trunk))).num_parameters)
        unused = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        assert unused == (set() if use_trunk else {n for n, _ in model.named_parameters() if n[:14] in BETWEEN})
    middle = sum(p.numel() for n, p in model.named_parameters() if n[:14] in BETWEEN)
    assert counts[1] == counts[0] - middle


def test_cost_of_own_layers_grows_with_what_runs():
    few, many = make_own(upper_layers=1), make_own(upper_layers=3)
    one, other = (flops_by_part(model, 100, 10) for model in (few, many))
    assert one["decoder"] < other["decoder"]
    assert one["trunk"] > other["trunk"]
    assert one["vocabulary"] == flops_by_part(few, 100, 20)["vocabulary"]  # an end by a flag has no product
    assert one["vocabulary"] < flops_by_part(make_own(upper_layers=1, end_flag=False), 100, 10)["vocabulary"]
