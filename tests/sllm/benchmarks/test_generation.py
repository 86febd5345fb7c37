"""Rows of writing: every way, its limits, and what does not fit."""

import pytest
from tiny import CAP

from lmbase.benchmarking.timing import Generation
from multitoken import DraftTree
from multitoken.benchmarks.measuring import Way
from multitoken.benchmarks.replaying import Drafts
from sllm.benchmarks.generation import Generate, Models
from sllm.benchmarks.replaying import Build

LENGTHS = [3, 1, 7, CAP, 5]
BUILD = Build("tiny", 512, num_future_tokens=3)


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**20)


def test_rows_of_generation(monkeypatch):
    opt = BUILD.lm().eval()
    sllm = BUILD.sllm(opt).eval()
    opt.config.max_position_embeddings = 40
    tree = DraftTree(((0,), (1,), (0, 0)))
    ways = [Way("3 heads", 3, counts=[2, 0]), Way("tree", 3, tree, [2, 1])]

    def measure(prompt_tokens, new_tokens, batch_size, compiled=False):
        subset = Generate(new_tokens=new_tokens, rounds=1, dtype="fp32", device="cpu", compiled=compiled)
        subset.drafts = Drafts("a", {}, ways)
        models = Models(BUILD.lm_name, opt, BUILD.sllm_name, sllm)
        return subset.compare(models, LENGTHS, prompt_tokens, batch_size)

    rows = {row.model: row for row in measure(20, 16, 1)}
    drafting = ["3 heads", "tree", "auto", "auto, nothing accepted"]
    assert list(rows) == ["OPT tiny", "SLLM tiny", *(f"SLLM tiny, {way}" for way in drafting)]
    assert rows["SLLM tiny, tree"].extra["tokens_per_forward"] > 1.5
    assert 0 < (rows["SLLM tiny"].kv_bytes_per_token or 0) < (rows["OPT tiny"].kv_bytes_per_token or 0)
    assert rows["SLLM tiny, 3 heads"].extra["tokens_per_forward"] > 1.3
    both = {row.model: row.extra for row in measure(8, 8, 2)}
    assert [extra["batch_size"] for extra in both.values()] == [2] * 6
    for name in ("OPT tiny", "SLLM tiny"):
        limit = sum(v for k, v in both[name].items() if k.startswith("limit_ms"))
        assert both[name]["of_limit"] == pytest.approx(limit / both[name]["milliseconds_per_token"])
        # one text's limit leaves the prompt out, so it is nearer than all its seconds say
        limit = sum(v for k, v in rows[name].extra.items() if k.startswith("limit_ms"))
        assert rows[name].extra["of_limit"] > 0.8 * limit / rows[name].extra["milliseconds_per_token"]
    settings = dict(cache_implementation="static", disable_compile=True)
    monkeypatch.setattr("lmbase.benchmarking.timing.compile_settings", lambda device: settings)
    rows = {row.model: row for row in measure(8, 8, 1, compiled=True)}
    assert len(rows) == 2 * (2 + len(drafting))
    assert "plain_ratio" not in rows["OPT tiny, compiled"].extra
    assert {"speed_ratio", "plain_ratio", "of_limit"} <= set(rows["SLLM tiny, compiled"].extra)
    assert rows["SLLM tiny, compiled"].kv_bytes_per_token == rows["SLLM tiny"].kv_bytes_per_token
    assert rows["SLLM tiny, tree, compiled"].extra["tokens_per_forward"] > 1.5
    beyond = measure(32, 16, 1)
    assert beyond[0].tokens_per_second is None
    assert beyond[0].extra["note"] == "has 40 positions"
    assert "speed_ratio" not in beyond[1].extra


def test_a_row_of_llama_cpp(monkeypatch, tmp_path):
    calls = []

    class Llama:
        def __init__(self, file, num_positions, device):
            calls.append((file, num_positions))

        def time(self, prompt, num_new_tokens):
            return Generation(2.0, 1.0, num_new_tokens)

    monkeypatch.setattr("sllm.benchmarks.generation.LlamaCpp", Llama)
    opt = BUILD.lm().eval()
    models = Models(BUILD.lm_name, opt, BUILD.sllm_name, BUILD.sllm(opt).eval())
    file = str(tmp_path / "x.Q4_1.gguf")
    subset = Generate(new_tokens=8, rounds=1, dtype="fp32", device="cpu", llama_cpp=file)
    row = subset.compare(models, LENGTHS, 10, 1)[-1]
    assert (row.model, row.tokens_per_second, row.dtype) == ("llama.cpp x.Q4_1", 4.0, None)
    assert row.extra["speed_ratio"] > 0
    assert calls == [(file, 10 + 1 + 8)]
    assert len(subset.compare(models, LENGTHS, 10, 2)) == 2  # several texts at once: none
    with pytest.raises(ValueError, match="no such file"):
        next(subset.parts(BUILD, LENGTHS))
