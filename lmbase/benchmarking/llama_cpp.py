"""llama.cpp with a GGUF file, timed as the models here are: what many users write with on a CPU. It comes with the
package xllamacpp, an extra."""

from collections.abc import Sequence
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
        package = open_llama_cpp(file, device)
        params = package.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = file, num_positions, 1, 0
        params.verbosity = 0  # else each request is logged
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        try:
            self.server = package.Server(params)
        except RuntimeError as error:
            raise ValueError(f"llama_cpp={file!r}: llama.cpp does not read this file ({error}).") from error

    def time(self, prompt: Sequence[int], num_new_tokens: int) -> Generation:
        """Greedy writing after ids of its vocabulary; end marks disabled.

        Raises:
            ValueError: llama.cpp refused the request, or wrote fewer tokens.
        """
        arrivals, last = Arrivals(), {}

        def take(chunk: dict[str, Any]) -> None:
            last.update(chunk)
            arrivals.put(torch.empty(1))

        request = {"prompt": list(prompt), "max_tokens": num_new_tokens, "temperature": 0.0, "stream": True}
        arrivals.put(torch.empty(len(prompt)))
        self.server.handle_completions(request | {"ignore_eos": True, "cache_prompt": False}, take)
        written = last.get("usage", {}).get("completion_tokens")
        if written != num_new_tokens:
            raise ValueError(f"llama.cpp wrote {written} tokens of {num_new_tokens}: {last.get('error', last)}.")
        return Generation(arrivals.seconds, arrivals.seconds_until(PUBLISHED_SENTENCE_TOKENS), num_new_tokens)
