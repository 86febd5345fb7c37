"""llama.cpp with a GGUF file, timed as the models here are: what many users write with on a CPU. It comes with the
package xllamacpp, an extra.

It runs in a process of its own: beside PyTorch's threads in one process, llama.cpp's made both write at less than half
their speed, whether it was asked or not.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lmbase.benchmarking.timing import PUBLISHED_SENTENCE_TOKENS, Arrivals, Generation


def open_llama_cpp(file: str, device: str) -> ModuleType:
    """The package.

    Raises:
        ValueError: no such package, no such file, another device than a CPU.
    """
    if device != "cpu":
        raise ValueError(f"llama_cpp={file!r} is timed on CPUs, and device is {device}: leave it out, or --device cpu.")
    if not Path(file).is_file():
        raise ValueError(f"llama_cpp={file!r}: there is no such file; give the path of a GGUF file.")
    try:
        import xllamacpp
    except ImportError as error:
        raise ValueError(f"llama_cpp: {error.name} is missing: pip install 'sllm[llama]'.") from error
    return xllamacpp


class LlamaCpp:
    """One model, loaded, with as many threads as PyTorch has.

    Args:
        num_positions: of prompt and new tokens together.

    Raises:
        ValueError: a file that llama.cpp does not read, and as for `open_llama_cpp`.
    """

    def __init__(self, file: str, num_positions: int, device: str = "cpu"):
        open_llama_cpp(file, device)
        self.file = file
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._ask(_load, file, num_positions, torch.get_num_threads())

    def time(self, prompt: Sequence[int], num_new_tokens: int) -> Generation:
        """Greedy writing after ids of its vocabulary; end marks disabled.

        Raises:
            ValueError: llama.cpp refused the request, or wrote fewer tokens.
        """
        return self._ask(_time, list(prompt), num_new_tokens)

    def _ask(self, function: Callable, *args: Any) -> Any:
        try:
            return self._process.submit(function, *args).result()
        except BrokenProcessPool:
            raise ValueError(
                f"llama_cpp={self.file!r}: the process of llama.cpp has ended, for lack of memory perhaps."
            ) from None


_server: Any = None  # of the process that `LlamaCpp` began


def _load(file: str, num_positions: int, num_threads: int) -> None:
    global _server
    package = open_llama_cpp(file, "cpu")
    params = package.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = file, num_positions, 1, 0
    params.verbosity = 0  # else each request is logged
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = num_threads
    try:
        _server = package.Server(params)
    except RuntimeError as error:
        raise ValueError(f"llama_cpp={file!r}: llama.cpp does not read this file ({error}).") from error


def _time(prompt: list[int], num_new_tokens: int) -> Generation:
    arrivals, last = Arrivals(), {}

    def take(chunk: dict[str, Any]) -> None:
        last.update(chunk)
        arrivals.put(torch.empty(1))

    request = {"prompt": prompt, "max_tokens": num_new_tokens, "temperature": 0.0, "stream": True}
    arrivals.put(torch.empty(len(prompt)))
    _server.handle_completions(request | {"ignore_eos": True, "cache_prompt": False}, take)
    written = last.get("usage", {}).get("completion_tokens")
    if written != num_new_tokens:
        raise ValueError(f"llama.cpp wrote {written} tokens of {num_new_tokens}: {last.get('error', last)}.")
    return Generation(arrivals.seconds, arrivals.seconds_until(PUBLISHED_SENTENCE_TOKENS), num_new_tokens)
