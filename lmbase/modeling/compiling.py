"""torch.compile for the steps of generation: functions of tensors whose shapes recur."""

import functools
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch
from transformers import CompileConfig, GenerationConfig

from lmbase.modeling.attention import NAME

SHAPES = 64  # of one function that are compiled; others run as they are written (an error with fullgraph=True)

_known: dict[tuple[Callable, str], Callable] = {}


def compile_settings(device: str) -> dict[str, Any]:
    """Settings of `generate`, of SLLMs and of Transformers' models, that give it caches of fixed size and compiled
    steps, on CPUs too.

    Raises:
        ValueError: a CPU without a C++ compiler, which kernels for it are made with.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device == "cpu" and sys.platform != "win32" and shutil.which(compiler.split()[0]) is None:
        raise ValueError(
            f"Compiling steps for a CPU takes a C++ compiler, and {compiler!r} is not here: install g++ (or name yours "
            "in the environment variable CXX), or write without compiling."
        )
    config = CompileConfig()
    config._compile_all_devices = True  # type: ignore[assignment]  # else Transformers compiles on accelerators only
    return {"cache_implementation": "static", "compile_config": config}


def check_attention(implementation: str) -> None:
    """
    Raises:
        ValueError: attention that takes no mask of a fixed size.
    """
    if implementation not in ("eager", "sdpa", NAME):
        raise ValueError(
            f"cache_implementation='static' needs attn_implementation='sdpa' or 'eager', not {implementation!r}."
        )


def compiled(function: Callable, generation: GenerationConfig) -> Callable:
    """`function` of tensors by torch.compile, each shape apart unless the configuration says dynamic=True; the first
    call with a shape takes seconds to minutes. What was compiled serves every later call in this process.

    On a GPU a call may reuse the memory that earlier results of compiled functions lie in: copy what is to live on.
    """
    if generation.disable_compile:
        return function
    settings = (generation.compile_config or CompileConfig()).to_dict()
    settings["dynamic"] = bool(settings["dynamic"])
    if settings["options"]:
        del settings["mode"]  # torch.compile takes one of the two
    key = function, repr(sorted(settings.items()))
    if key not in _known:
        _known[key] = _wrapped(function, torch.compile(function, **settings))
    return _known[key]


def _wrapped(function: Callable, step: Callable) -> Callable:
    limit = torch._dynamo.config.patch(recompile_limit=SHAPES)

    @functools.wraps(function)
    def run(*args):
        torch.compiler.cudagraph_mark_step_begin()
        with limit:
            return step(*args)

    return run
