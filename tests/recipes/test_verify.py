"""`sllm verify` looks through whatever folder it is given, and has a line for each fault."""

import json
import shutil
from pathlib import Path

import pytest

from sllm_recipes.cli import main

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture
def folder(tmp_path):
    """A run with checkpoint and prepared data, a model and metrics."""
    shutil.copytree(GOLDEN / "runs" / "sllm", tmp_path / "run")
    shutil.copytree(GOLDEN / "models" / "sllm-block", tmp_path / "model")
    return tmp_path


def verify(folder, capsys) -> tuple[int, list[str]]:
    """Exit status, and the lines before the last, which counts."""
    status = 0
    try:
        main(["verify", str(folder)])
    except SystemExit as end:
        status = int(end.code or 0)
    return status, capsys.readouterr().out.splitlines()[:-1]


def test_a_whole_folder_has_no_fault(folder, capsys):
    assert verify(folder, capsys) == (0, [])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def drop_weight(folder):
    config = json.loads((folder / "model" / "config.json").read_text())
    config["trunk"]["num_hidden_layers"] += 1
    (folder / "model" / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: flip(next(f.glob("run/checkpoints/*/optimizer.safetensors"))), "optimizer.safetensors"),
        (lambda f: flip(next(f.glob("run/data/train/*"))), "train"),
        (lambda f: (f / "run" / "log.jsonl").write_text('{"step": 1, "loss": 2}\n{\n{"step": 2}\n'), "log.jsonl"),
        (drop_weight, "model"),
    ],
    ids=["a checkpoint", "prepared data", "a log", "a model"],
)
def test_each_fault_is_a_line(folder, capsys, damage, named):
    damage(folder)
    status, lines = verify(folder, capsys)
    assert status == 1
    assert lines
    assert any(named in line for line in lines)


def test_nothing_to_verify(tmp_path, capsys):
    for words in (["verify"], ["verify", str(tmp_path / "typo")]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert "Nothing to verify" in (told := capsys.readouterr().err) or "no such file" in told


def test_what_holds_nothing_is_not_called_faultless(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["verify", str(tmp_path)])
    assert "holds nothing that can be verified" in capsys.readouterr().err


def test_weights_that_lost_their_configuration_are_a_fault(folder, capsys):
    (folder / "model" / "config.json").unlink()
    status, lines = verify(folder, capsys)
    assert status == 1
    assert any("config.json" in line for line in lines)
