"""torch.compile for the steps of generation: functions of tensors whose shapes recur."""

import functools
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch
from transformers import CompileConfig

SHAPES = 64  # of one function that are compiled; others run as they are written


def compile_settings(device: str) -> dict[str, Any]:
    """Settings of `generate`, of SLLMs and of Transformers' models, that give it caches of fixed size and compiled
    steps, on CPUs too.

    Raises:
        ValueError: a CPU without a C++ compiler, which kernels for it are made with.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device == "cpu" and sys.platform != "win32" and shutil.which(compiler.split()[0]) is None:
        raise ValueError(
            f"Compiling steps for a CPU takes a C++ compiler, and {compiler!r} is not here: install g++ (or name yours "
            "in the environment variable CXX), or write without compiling."
        )
    config = CompileConfig()
    config._compile_all_devices = True  # type: ignore[assignment]  # else Transformers compiles on accelerators only
    return {"cache_implementation": "static", "compile_config": config}


def compiled(function: Callable, config: CompileConfig | None = None) -> Callable:
    """`function`, compiled as Transformers would compile a forward pass: the first call with each shape takes seconds
    to minutes. What was compiled once serves every later call in this process.

    On a GPU a call may reuse the memory that earlier calls' results lie in: clone what is to live on.
    """
    config = CompileConfig() if config is None else config
    options = tuple(sorted((config.options or {}).items()))
    return _compiled(function, config.backend, config.mode, config.fullgraph, config.dynamic, options)


@functools.cache
def _compiled(function: Callable, backend, mode: str | None, fullgraph: bool, dynamic: bool | None, options: tuple):
    step = torch.compile(
        function,
        backend=backend,
        fullgraph=fullgraph,
        dynamic=bool(dynamic),  # shapes recur, so each gets kernels of its own
        **({"options": dict(options)} if options else {"mode": mode}),
    )

    @functools.wraps(function)
    def run(*args):
        torch.compiler.cudagraph_mark_step_begin()
        with torch._dynamo.config.patch(recompile_limit=SHAPES):
            return step(*args)

    return run
