"""`sllm benchmark` as a user types it: help by subset, keys of other subsets, devices."""

import re
import signal

import pytest
import torch

from lmbase.processes import Stopped
from lmbase.report.rows import read_metrics
from sllm.benchmarks.cache_size import Cache
from sllm_recipes import cli


def sllm(command: str) -> None:
    cli.main(command.split())


def keys_shown(command: str, capsys) -> set[str]:
    with pytest.raises(SystemExit) as leave:
        sllm(command)
    assert leave.value.code == 0
    return set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE))


def test_help_shows_the_keys_that_apply(capsys):
    everything = keys_shown("benchmark --help", capsys)
    cache = keys_shown("benchmark --subset cache --help", capsys)
    assert {"data", "size", "text_megabytes", "output_dir"} <= cache
    assert not {"acceptance_from", "rounds", "num_blocks", "prompt_tokens"} & cache
    both = keys_shown("benchmark --help --subset cache replay", capsys)
    assert cache < both < everything
    assert keys_shown("benchmark --subset=replay --help", capsys) | cache == both
    assert keys_shown("benchmark --subset nothing --help", capsys) == everything


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--subset cache --num_blocks 4", "num_blocks = 4: no key of --subset cache, but of heads"),
        ("--num_block 4", "did you mean num_blocks?"),
        ("--subset nothing", "subset"),
        ("--subset train --size tiny random:16x2", "size=random:16x2: "),
        ("--subset cache --device gpu", "known are auto, cpu, cuda"),
        ("--subset generate --weights int4 --device gpu", "known are auto, cpu, cuda"),
    ],
)
def test_mistakes_end_with_a_message(words, told, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        sllm(f"benchmark {words} --output_dir {tmp_path}")
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_a_model_of_another_family_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**20)
    text = tmp_path / "text"
    text.mkdir()
    for split in ("train", "test"):
        (text / f"{split}.txt").write_text(f"{split}: one, two, three. Four and five! " * 200)
    sllm(
        f"benchmark --subset train generate --size llama-tiny --quick --dtype fp32 --device cpu --tokenizer bytes "
        f"--data {text} --output_dir {tmp_path}/out"
    )
    models = [row.model for row in read_metrics(tmp_path / "out")["rows"]]
    train = ["LLAMA llama-tiny", "autoencoder llama-tiny", "SLLM llama-tiny"]
    assert models == [*train, "LLAMA llama-tiny", "SLLM llama-tiny"]


def test_a_benchmark_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("One, two, three. Four and five! " * 20)
    words = f"benchmark --subset cache --size tiny llama-tiny qwen3-tiny --data {tmp_path}/*.txt --tokenizer bytes"
    words += f" --device cpu --output_dir {tmp_path}/out"
    rows, called = Cache.rows, []

    def stopping(self, build, lengths):
        called.append(build.size)
        if len(called) == 2:
            raise Stopped(signal.SIGTERM)
        return rows(self, build, lengths)

    monkeypatch.setattr(Cache, "rows", stopping)
    with pytest.raises(SystemExit) as stopped:
        sllm(words)
    assert stopped.value.code == 143
    first = read_metrics(tmp_path / "out")["rows"]
    assert {row.model.split()[1] for row in first} == {"tiny"}
    sllm(words)
    assert "Going on with what" in capsys.readouterr().out
    found = read_metrics(tmp_path / "out")["rows"]
    assert found[: len(first)] == first
    assert called == ["tiny", "llama-tiny", "llama-tiny", "qwen3-tiny"]
    called.clear()
    with pytest.raises(SystemExit):
        sllm(words)  # anew: it had been finished
    called.clear()
    (tmp_path / "test.txt").write_text("One, two, three. Four and six! " * 20)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        sllm(words)
    assert "everything is measured anew" in capsys.readouterr().out
    assert called == ["tiny", "llama-tiny"]


@pytest.mark.parametrize("recipe", ["generate", "evaluate", "audit", "drafting"])
def test_a_device_that_is_not_here_is_told_everywhere(recipe, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        sllm(f"{recipe} --model x --device cuda")
    assert stopped.value.code == 2
    assert "device = 'cuda', but here there is only" in capsys.readouterr().err
