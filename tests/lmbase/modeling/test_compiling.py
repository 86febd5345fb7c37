"""What compiles the steps of generation, and what it needs."""

import pytest
import torch
from transformers import CompileConfig, GenerationConfig

from lmbase.modeling.compiling import check_attention, compile_settings, compiled


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
