"""torch.compile for the steps of generation: functions of tensors whose shapes recur."""

import functools
import os
import shutil
import sys
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.compiler import skip_guard_on_all_nn_modules_unsafe
from transformers import CompileConfig, GenerationConfig

from lmbase.modeling.attention import NAME
from lmbase.modeling.one_row import LANES, RowLinear

SHAPES = 64  # of one function that are compiled; others run as they are written (an error with fullgraph=True)

_known: dict[tuple[Callable, str], Callable] = {}
_known_for: WeakKeyDictionary[nn.Module, dict[tuple[Callable, str], Callable]] = WeakKeyDictionary()


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
    settings = _settings(generation)
    key = function, repr(sorted(settings.items()))
    if key not in _known:
        _known[key] = _wrapped(function, torch.compile(function, **settings))
    return _known[key]


def compiled_for(module: nn.Module, function: Callable, generation: GenerationConfig) -> Callable:
    """As `compiled`, of a function whose first argument is fixed here and must not change, its configuration neither:
    PyTorch does not look at it at each call, which would take milliseconds for 30 blocks."""
    if generation.disable_compile:
        return functools.partial(function, module)
    settings = _settings(generation)
    known = _known_for.setdefault(module, {})
    key = function, repr(sorted(settings.items()))
    if key not in known:
        if mode := settings.pop("mode", None):  # torch.compile takes this or options
            settings["options"] = torch._inductor.list_mode_options(mode)
        unlooked: dict[str, Any] = {"guard_filter_fn": skip_guard_on_all_nn_modules_unsafe}
        if settings["backend"] == "inductor":  # whose steps look at the shapes of each tensor once more
            unlooked["size_asserts"] = False
        settings["options"] = {**(settings["options"] or {}), **unlooked}
        # What was compiled is kept by code, so that of another module would be taken for this one's.
        own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
        known[key] = _wrapped(function, torch.compile(own, **settings))
    return functools.partial(known[key], module)


def lanes_of(generation: GenerationConfig) -> Callable[[torch.dtype], int]:
    """How `row_twin` lays out weights of a dtype: tried where kernels are made, and not where steps are only captured,
    as some of torch.compile's backends do."""
    kernels = not generation.disable_compile and _settings(generation)["backend"] == "inductor"
    return _fastest_lanes if kernels else lambda dtype: LANES[0]


@functools.cache
def _fastest_lanes(dtype: torch.dtype) -> int:
    """With which of `LANES` kernels read weights of a dtype fastest here: the best of some rounds in turns."""
    weight = torch.ones(2**11, 2**10, dtype=dtype)  # more than the caches near a core hold
    row = torch.ones(1, 2**10, dtype=dtype if dtype.is_floating_point else torch.float32)
    layers = {lanes: RowLinear(weight, lanes=lanes) for lanes in LANES}
    products = {lanes: compiled_for(layer, RowLinear.forward, GenerationConfig()) for lanes, layer in layers.items()}
    best = dict.fromkeys(LANES, float("inf"))
    with torch.no_grad():
        for number in range(32):
            for lanes, product in products.items():
                start = time.perf_counter()
                product(row)
                if number:  # the first call compiles
                    best[lanes] = min(best[lanes], time.perf_counter() - start)
    return min(best, key=lambda lanes: best[lanes])


def _settings(generation: GenerationConfig) -> dict[str, Any]:
    """What torch.compile is given."""
    settings = (generation.compile_config or CompileConfig()).to_dict()
    settings["dynamic"] = bool(settings["dynamic"])
    if settings["options"]:
        del settings["mode"]  # torch.compile takes one of the two
    return settings


def _wrapped(function: Callable, step: Callable) -> Callable:
    limit = torch._dynamo.config.patch(recompile_limit=SHAPES)

    @functools.wraps(function)
    def run(*args):
        torch.compiler.cudagraph_mark_step_begin()
        with limit:
            return step(*args)

    return run
