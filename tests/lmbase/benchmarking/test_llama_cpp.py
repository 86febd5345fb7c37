"""llama.cpp's row, with something in place of its package."""

import json
import os
import sys

import pytest
import torch

from lmbase.benchmarking.llama_cpp import LlamaCpp

# A package of that name: chunks as xllamacpp streams them, of which the last one has no token. It writes down what it
# was asked, and by whom.
PACKAGE = """
import json, os
from pathlib import Path
from types import SimpleNamespace

def CommonParams():
    return SimpleNamespace(**{k: SimpleNamespace() for k in ("model", "cpuparams", "cpuparams_batch")})

class Server:
    def __init__(self, params):
        if "broken" in params.model.path:
            raise RuntimeError("failed to load")
        if "fatal" in params.model.path:
            os._exit(1)
        self.params = params

    def handle_completions(self, request, callback):
        threads = self.params.cpuparams.n_threads
        asked = {"request": request, "threads": threads, "process": os.getpid()}
        Path(self.params.model.path).write_text(json.dumps(asked))
        if len(request["prompt"]) > self.params.n_ctx:
            callback({"error": {"message": "too long"}})
            return
        written = request["max_tokens"] - ("short" in self.params.model.path)
        for _ in range(written):
            callback({"choices": [{"text": "a", "finish_reason": None}]})
        callback({"choices": [{"text": "", "finish_reason": "length"}], "usage": {"completion_tokens": written}})
"""


@pytest.fixture
def file_named(monkeypatch, tmp_path):
    (tmp_path / "xllamacpp.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)

    def make(name: str) -> str:
        (tmp_path / name).touch()
        return str(tmp_path / name)

    yield make
    sys.modules.pop("xllamacpp", None)


def test_one_call_is_timed_in_a_process_of_its_own(file_named):
    file = file_named("a.gguf")
    found = LlamaCpp(file, 30).time([20, 21, 22], 12)
    assert found.num_new_tokens == 12
    assert 0 < found.seconds_to_first_sentence <= found.seconds
    with open(file) as written:
        asked = json.load(written)
    assert asked["request"]["prompt"] == [20, 21, 22]
    assert asked["request"]["temperature"] == 0.0
    assert asked["threads"] == torch.get_num_threads()
    assert asked["process"] != os.getpid()


def test_what_it_cannot_do_is_told(file_named, monkeypatch, tmp_path):
    file = file_named("a.gguf")
    with pytest.raises(ValueError, match=r"wrote None tokens of 4.*too long"):
        LlamaCpp(file, 2).time([20, 21, 22], 4)
    with pytest.raises(ValueError, match="wrote 3 tokens of 4"):
        LlamaCpp(file_named("short.gguf"), 9).time([20], 4)
    with pytest.raises(ValueError, match="no such file"):
        LlamaCpp(str(tmp_path / "b.gguf"), 9)
    with pytest.raises(ValueError, match="device is cuda"):
        LlamaCpp(file, 9, "cuda")
    with pytest.raises(ValueError, match=r"does not read this file \(failed to load"):
        LlamaCpp(file_named("broken.gguf"), 9)
    with pytest.raises(ValueError, match=r"fatal\.gguf': the process of llama.cpp has ended"):
        LlamaCpp(file_named("fatal.gguf"), 9)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ValueError, match=r"xllamacpp is missing: pip install 'sllm\[llama\]'"):
        LlamaCpp(file, 9)
