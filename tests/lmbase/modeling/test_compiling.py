"""What compiles the steps of generation, and what it needs."""

import time

import pytest
import torch
from transformers import CompileConfig, GenerationConfig

from lmbase.modeling import compiling
from lmbase.modeling.compiling import check_attention, compile_settings, compiled, lanes_of
from lmbase.modeling.one_row import LANES


def test_a_missing_compiler_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    with pytest.raises(ValueError, match="no-such-compiler"):
        compile_settings("cpu")
    assert compile_settings("cuda")["cache_implementation"] == "static"


def double(x):
    return 2 * x


def eager(**settings):
    """Captured by torch.compile, with no kernels made."""
    return GenerationConfig(compile_config=CompileConfig(backend="eager", mode=None, **settings))  # type: ignore[arg-type]


def test_without_compiling_a_function_is_itself():
    assert compiled(double, GenerationConfig(disable_compile=True)) is double


def test_what_was_compiled_serves_later_calls_with_the_same_settings():
    first = compiled(double, eager())
    assert first is not double
    assert first(torch.ones(2)).tolist() == [2.0, 2.0]
    assert compiled(double, eager()) is first
    assert compiled(double, eager(fullgraph=True)) is not first


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention"])
def test_attention_without_masks_of_fixed_size_is_refused(name):
    check_attention("sdpa")
    with pytest.raises(ValueError, match=f"needs attn_implementation='sdpa' or 'eager', not '{name}'"):
        check_attention(name)


def test_lanes_are_tried_where_kernels_are_made(monkeypatch):
    """By time: the second to be tried is the fastest here, whatever its results."""
    made = []

    def compiled_for(layer, function, generation):
        made.append(layer.bundles.shape[1:])
        return lambda row: time.sleep(0.002 * (layer.bundles.shape[2] != LANES[1]))

    monkeypatch.setattr(compiling, "compiled_for", compiled_for)
    compiling._fastest_lanes.cache_clear()
    assert lanes_of(GenerationConfig())(torch.float16) == LANES[1]
    assert len(made) == len(LANES)
    assert lanes_of(GenerationConfig())(torch.float16) == LANES[1]  # asked once
    assert len(made) == len(LANES)
    for captured in (eager(), GenerationConfig(disable_compile=True)):
        assert lanes_of(captured)(torch.float16) == LANES[0]
    compiling._fastest_lanes.cache_clear()
