"""The making of the example models: commands that exist, weights in half their bytes, nothing too large shipped."""

import json
import shlex
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from lmbase.config import load_config
from lmbase.files import verify_folder, write_folder
from lmbase.report.rows import Row, write_metrics
from sllm.loading import load_model
from sllm_recipes import build_examples, evaluate, finetune_mtp, finetune_sllm, prepare, pretrain_vae, train_lm
from sllm_recipes.build_examples import Config, put_into_package, store

RECIPES = {
    "prepare": prepare, "train-lm": train_lm, "pretrain-vae": pretrain_vae, "finetune-sllm": finetune_sllm,
    "finetune-mtp": finetune_mtp, "evaluate": evaluate,
}  # fmt: skip


def test_each_command_is_one_of_its_recipe():
    config = Config(data="runs/books", output_dir="my runs", quick=True)
    folders = []
    for command in (*build_examples.stages(config), build_examples.evaluation(config)):
        recipe, *argv = shlex.split(command)
        found = load_config(RECIPES[recipe].Config, argv, build_examples.cli.FOLDER / "configs")
        assert found.output_dir.startswith("my runs/")
        folders.append(found.output_dir.removeprefix("my runs/"))
    assert folders == ["data", "trunk", "vae", "sllm", "sllm-drafting", "lm", "lm-drafting", "evaluate"]


def test_both_sides_read_as_many_tokens_after_the_trunk():
    tokens = {}
    for command in build_examples.stages(Config(data="x", output_dir="o"))[1:]:
        words = shlex.split(command)
        tokens[words[words.index("--output_dir") + 1]] = int(words[words.index("--train_tokens") + 1])
    assert tokens["o/vae"] + tokens["o/sllm"] == tokens["o/lm"]
    assert tokens["o/sllm-drafting"] == tokens["o/lm-drafting"]


@pytest.fixture
def pair(runs, tmp_path):
    """A folder as the recipe has it before the pair goes into the package."""
    for name, run in {"sllm": "sllm", "lm": "mtp"}.items():
        write_folder(tmp_path / "pair" / name, partial(store, runs / run))
    write_metrics(tmp_path / "evaluate", [Row("m")], config={}, seed=0, wall_seconds=0, corpus=None)
    return tmp_path


def test_weights_are_stored_rounded_and_computed_with_in_fp32(runs, pair):
    before = load_file(runs / "sllm" / "model" / "model.safetensors")
    stored = load_file(pair / "pair" / "sllm" / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert all(torch.equal(stored[name], before[name].to(torch.bfloat16)) for name in before)
    loaded = load_model(str(pair / "pair" / "sllm"))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.training is not None


def test_the_package_gets_whole_folders_and_what_they_say_of_a_text(pair, tmp_path, capsys):
    package = tmp_path / "package"
    for _ in range(2):  # a newer pair replaces an older one
        put_into_package(pair, package)
        for name in ("sllm", "lm"):
            verify_folder(package / name, alone=True)
    assert "Try: sllm generate 'Once upon a time'" in capsys.readouterr().out
    check = json.loads((package / "check.json").read_text(encoding="utf-8"))
    assert check["lm"]["nats"] == load_model(str(package / "lm")).model.score([check["text"]]).nats[0]
    assert (package / "metrics.json").is_file()


def test_a_pair_that_is_too_large_is_not_shipped(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(build_examples, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="1,000 may be shipped: train smaller models"):
        put_into_package(pair, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_a_text_is_asked_for(capsys):
    with pytest.raises(SystemExit):
        build_examples.cli.main(["build-examples"])
    assert "No text: give --data" in capsys.readouterr().err
