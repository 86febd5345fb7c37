"""llama.cpp's row, with something in place of its package."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from lmbase.benchmarking.llama_cpp import LlamaCpp


class Server:
    """Chunks as xllamacpp streams them: the last one has no token."""

    short = 0

    def __init__(self, params):
        if "broken" in params.model.path:
            raise RuntimeError("failed to load")
        self.params = params

    def handle_completions(self, request, callback):
        self.request = request
        if len(request["prompt"]) > self.params.n_ctx:
            callback({"error": {"message": "too long"}})
            return
        written = request["max_tokens"] - self.short
        for _ in range(written):
            callback({"choices": [{"text": "a", "finish_reason": None}]})
        callback({"choices": [{"text": "", "finish_reason": "length"}], "usage": {"completion_tokens": written}})


@pytest.fixture
def file(monkeypatch, tmp_path):
    package = ModuleType("xllamacpp")
    params = lambda: SimpleNamespace(**{k: SimpleNamespace() for k in ("model", "cpuparams", "cpuparams_batch")})  # noqa: E731
    vars(package).update(CommonParams=params, Server=Server)
    monkeypatch.setitem(sys.modules, "xllamacpp", package)
    file = tmp_path / "a.gguf"
    file.touch()
    return file


def test_one_call_is_timed(file):
    llama = LlamaCpp(str(file), 30)
    found = llama.time([20, 21, 22], 12)
    assert found.num_new_tokens == 12
    assert 0 < found.seconds_to_first_sentence <= found.seconds
    assert llama.server.request["prompt"] == [20, 21, 22]
    assert llama.server.request["temperature"] == 0.0
    assert llama.server.params.cpuparams.n_threads == torch.get_num_threads()


def test_what_it_cannot_do_is_told(file, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"wrote None tokens of 4.*too long"):
        LlamaCpp(str(file), 2).time([20, 21, 22], 4)
    monkeypatch.setattr(Server, "short", 1)
    with pytest.raises(ValueError, match="wrote 3 tokens of 4"):
        LlamaCpp(str(file), 9).time([20], 4)
    with pytest.raises(ValueError, match="no such file"):
        LlamaCpp(str(tmp_path / "b.gguf"), 9)
    with pytest.raises(ValueError, match="device is cuda"):
        LlamaCpp(str(file), 9, "cuda")
    (tmp_path / "broken.gguf").touch()
    with pytest.raises(ValueError, match=r"does not read this file \(failed to load"):
        LlamaCpp(str(tmp_path / "broken.gguf"), 9)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ValueError, match=r"xllamacpp is missing: pip install 'sllm\[llama\]'"):
        LlamaCpp(str(file), 9)
