"""`sllm story`: the commands of its stages, own text, odd text, going on."""

import json
import re
import shlex
from importlib import import_module
from typing import Any

import pytest
from rooms import ROOT
from small_runs import refused
from tiny import make_opt, make_processor

from lmbase.config import class_of_keys, load_config
from lmbase.config.yaml_files import find_config, parse_yaml
from lmbase.report.rows import read_metrics
from sllm_recipes import cli, story
from sllm_recipes.story_plan import TOKENS, Plan
from sllm_recipes.tools import CONFIGS

PLAN = Plan({}, dict(TOKENS), {}, {"evaluate": {"rounds": 2}, "sllm": {"batch_size": 1}}, "It's so")


def test_paths_and_prompts_are_quoted():
    argv = ["--data", "my text/*.txt", "more.jsonl", "--text_field", "body", "--tokenizer", "bytes"]
    config = load_config(story.Config, [*argv, "--output_dir", "my runs"])
    words = shlex.split(story.text_stage(config, False)[1])
    assert words[:4] == ["prepare", "--data", "my text/*.txt", "more.jsonl"]
    assert words[words.index("--text_field") + 1] == "body"
    assert words[words.index("--tokenizer") + 1] == "bytes"
    stages = story.training_stages(config, PLAN, False, "lm")
    commands = {part: shlex.split(command) for part, _, command in stages}
    assert all("my runs" in " ".join(command) for command in commands.values())
    assert "--sample_prompt=It's so" in commands["sllm"]
    assert commands["sllm"][commands["sllm"].index("--batch_size") + 1] == "1"
    assert commands["evaluate"][commands["evaluate"].index("--rounds") + 1] == "2"


def test_a_prompt_that_begins_with_dashes_and_a_rule_with_a_space_arrive():
    config = load_config(story.Config, ["--rule", "my cuts"])
    assert "my cuts" in shlex.split(story.text_stage(config, False)[1])
    plan = Plan({}, dict(TOKENS), {}, {}, "--- title: x")
    stages = {part: shlex.split(command) for part, _, command in story.training_stages(config, plan, False, "lm")}
    for part in ("lm", "vae", "sllm", "tuned"):
        recipe, *words = stages[part]
        module = import_module(f"sllm_recipes.{recipe.replace('-', '_')}")
        read: Any = load_config(class_of_keys(module, words), words, cli.FOLDER / "configs")
        assert read.sample_prompt == "--- title: x"


def test_the_baseline_reads_what_the_sllm_s_parts_read_and_a_pretrained_trunk_is_not_trained_before():
    config = load_config(story.Config, ["--lm", "some/model"])
    parts = [part for part, _, _ in story.training_stages(config, PLAN, True, "lm")]
    assert parts == ["vae", "sllm", "tuned", "mtp", "drafting", "evaluate", ""]
    for _, _, command in story.training_stages(config, PLAN, True, "lm")[:3]:
        assert "--lm some/model" in command
        assert "--learning_rate" in command  # not those of random weights
    assert "lm=some/model" in story.training_stages(config, PLAN, True, "lm")[-2][2]


def test_F8_after_a_trunk_of_its_own_each_side_has_the_best_rate_that_was_tried():
    stages = story.training_stages(load_config(story.Config, []), PLAN, False, "opt")
    commands = {part: command for part, _, command in stages}
    rates = {part: re.search(r"--learning_rate (\S+)", command) for part, command in commands.items()}
    rows = [row for row in read_metrics(ROOT / "results" / "rates")["rows"] if row.protocol.startswith("full")]
    for part, name, config in (("sllm", "sllm", "sllm_demo"), ("tuned", "opt-tuned", "lm_demo")):
        best = min((row for row in rows if row.model.startswith(name)), key=lambda row: row.bits_per_byte)
        given = rates[part]
        own = parse_yaml(find_config(config, CONFIGS).read_text(encoding="utf-8"))["learning_rate"]
        assert float(given.group(1) if given else own) == float(best.model.removeprefix(f"{name}-"))


@pytest.fixture(scope="module")
def own_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    lines = [f"The {a} of the {b} was {c}, and so it went on." for a in "abc" for b in "ijklmnop" for c in "qrst"]
    for number in range(12):
        (folder / f"{number}.txt").write_text(" ".join(lines[number::2]))
    return folder


def test_a_size_that_there_is_none_of_is_told_before_text_is_prepared_for_it(own_text, tmp_path, capsys):
    told = refused(f"story --data {own_text} --lm random:300x --output_dir {tmp_path}/no", capsys)
    assert "random weights come in the sizes" in told
    assert not (tmp_path / "no").exists()


@pytest.mark.long
def test_a_pretrained_trunk_on_own_text_and_again(own_text, tmp_path, capsys):
    make_opt(max_position_embeddings=64).save_pretrained(tmp_path / "lm")
    make_processor().tokenizer.save_pretrained(tmp_path / "lm")
    command = (
        f"story --data {own_text} --lm {tmp_path}/lm --minutes 0.01 --quick --device cpu --output_dir {tmp_path}/o"
    )
    capsys.readouterr()
    cli.main(command.split())
    printed = capsys.readouterr()
    assert "On this machine all of it takes about" in printed.out
    assert "%|" not in printed.err  # no progress bar where nobody watches
    plan = json.loads((tmp_path / "o" / "plan.json").read_text())
    assert plan["tokens"]["tuned"] == plan["tokens"]["vae"] + plan["tokens"]["sllm"]
    rows = read_metrics(tmp_path / "o" / "evaluate")["rows"]
    assert {row.model for row in rows} == {"lm", "lm-tuned", "vae", "sllm", "sllm-drafting", "mtp"}

    cli.main(command.split())  # again: nothing is measured or trained twice
    assert capsys.readouterr().err.count("finished run") == 5
    assert json.loads((tmp_path / "o" / "plan.json").read_text()) == plan
    with pytest.raises(SystemExit):
        cli.main(f"{command} --minutes 5".split())
    assert "minutes: 0.01 -> 5.0" in capsys.readouterr().err
