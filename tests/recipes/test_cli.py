"""The command `sllm`: what it lists, what it says to mistakes, and that it is quick."""

import ast
import dataclasses
import importlib
import io
import re
import subprocess
import sys
import typing
from importlib import metadata
from pathlib import Path

import pytest
from tiny import make_opt, make_processor

from sllm_recipes import cli

ROOT = Path(__file__).parents[2]


def config_class(name):
    recipe = importlib.import_module(f"sllm_recipes.{name}")
    return next(iter(typing.get_type_hints(recipe.main).values()))


@pytest.fixture
def toy_recipe(tmp_path, monkeypatch):
    """A folder of recipes with one recipe and one configuration, in place of ours."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "toy_large.yaml").write_text("# sllm count-words toy_large\nwords: [a, b, c]\n")
    (tmp_path / "count_words.py").write_text(
        '"""Count words\nof any kind. Or not.\n\nAt length."""\n'
        "from dataclasses import dataclass\n"
        "from lmbase.config import option\n"
        "@dataclass\n"
        "class Config:\n"
        "    words: list[str] = option([], 'what to count')\n"
        "def main(config: Config) -> None:\n"
        "    if 'bad' in config.words:\n"
        "        raise ValueError('a bad word')\n"
        "    print('counted', len(config.words))\n"
    )
    (tmp_path / "helper.py").write_text('"""Helps."""\nclass Config: ...\ndef main_part(config): ...\n')
    (tmp_path / "tool.py").write_text('"""A command of its own."""\ndef main(argv=None): ...\n')
    monkeypatch.setattr(cli, "FOLDER", tmp_path)
    monkeypatch.setattr(cli, "__package__", "toy_recipes")
    package = type(sys)("toy_recipes")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "toy_recipes", package)
    yield
    sys.modules.pop("toy_recipes.count_words", None)


@pytest.mark.usefixtures("toy_recipe")
class TestToyRecipe:
    def test_list_shows_recipes_and_configurations(self, capsys):
        cli.main(["list"])
        text = capsys.readouterr().out
        assert re.search(r"count-words +Count words of any kind\.\n", text)
        assert "helper" not in text
        assert "tool" not in text
        assert re.search(r"toy_large +sllm count-words toy_large\n", text)

    @pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
    def test_help_shows_usage_and_recipes(self, capsys, words):
        cli.main(words)
        text = capsys.readouterr().out
        assert "sllm RECIPE [CONFIG] [--key value ...]" in text
        assert "count-words" in text

    @pytest.mark.parametrize("name", ["count-words", "count_words"])
    def test_a_recipe_runs_with_shipped_configuration_and_keys(self, capsys, name):
        cli.main([name, "toy_large"])
        cli.main([name, "toy-large", "--words", "a"])
        assert capsys.readouterr().out == "counted 3\ncounted 1\n"

    def test_a_recipe_s_help_is_its_docstring_and_keys(self, capsys):
        with pytest.raises(SystemExit) as leave:
            cli.main(["count-words", "--help"])
        assert leave.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith("Count words\nof any kind. Or not.\n\nAt length.")
        assert "usage: sllm count-words [CONFIG]" in text
        assert "what to count" in text

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["count-wrods"], "'count-wrods' is not a recipe; did you mean count-words?"),
            (["xyz"], "known are count-words"),
            (["count-words", "--wrods", "a"], "unknown key; did you mean words?"),
            (["count-words", "toy_lagre"], "did you mean toy_large?"),
            (["count-words", "--words", "bad"], "error: a bad word"),
        ],
    )
    def test_mistakes_end_with_status_2_and_a_hint(self, capsys, words, message):
        with pytest.raises(SystemExit) as leave:
            cli.main(words)
        assert leave.value.code == 2
        assert message in capsys.readouterr().err


def test_the_version_is_told(capsys, monkeypatch):
    cli.main(["--version"])
    assert re.fullmatch(r"sllm \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)

    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_installed)
    cli.main(["--version"])
    assert "not installed" in capsys.readouterr().out


def test_what_the_output_cannot_spell_is_a_question_mark(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr(cli, "_version", lambda: "é")
    cli.main(["--version"])
    out.flush()
    assert out.buffer.getvalue() == b"sllm ?\n"


@pytest.mark.parametrize("name", cli.recipes())
def test_commands_of_a_manual_can_be_copied(name):
    """A backslash at a line's end that is not doubled in a docstring is gone, and two lines are one."""
    manual = ast.get_docstring(ast.parse((cli.FOLDER / f"{name}.py").read_text(encoding="utf-8"))) or ""
    assert [line for line in manual.splitlines() if len(line) > 120] == []


def test_files_that_help_recipes_are_none():
    names = cli.recipes()
    assert {"demo", "prepare", "evaluate", "report"} <= set(names)
    assert not {"__init__", "cli", "training_run"} & set(names)


def test_help_and_list_load_neither_torch_nor_a_recipe():
    code = (
        f"import runpy, sys; module = runpy.run_path({str(ROOT / 'recipes' / 'cli.py')!r}, run_name='cli')\n"
        "module['main'](['--help']); module['main'](['list'])\n"
        "assert not {'torch', 'transformers', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", cli.recipes())
def test_every_recipe_explains_itself(name):
    source = (ROOT / "recipes" / f"{name}.py").read_text(encoding="utf-8")
    sentence = cli._first_sentence(ROOT / "recipes" / f"{name}.py")
    assert len(sentence) > 10
    assert sentence[-1] in ".?"  # and not cut where a line ends
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert "main" in functions
    keys = dataclasses.fields(config_class(name))
    assert all(field.metadata.get("help") for field in keys)


@pytest.mark.parametrize(
    "name", ["audit", "benchmark", "demo", "drafting", "evaluate", "generate", "report", "synthetic_tasks"]
)
def test_recipes_that_write_once_leave_the_other_processes_of_torchrun_at_once(name, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    cli.main([name, "--help"])  # in the first process help ends with SystemExit
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("recipe", ["generate", "evaluate", "audit", "drafting", "benchmark", "train-lm"])
@pytest.mark.parametrize("device", ["cuda:7", "tpu"])
def test_G5_a_device_that_is_not_there_is_one_sentence(tmp_path, capsys, recipe, device):
    folder = tmp_path / "model"
    make_opt().save_pretrained(folder)
    make_processor().save_pretrained(folder)
    model = "" if recipe in ("benchmark", "train-lm") else f"--model {folder}"
    out = "" if recipe in ("generate", "audit") else f"--output_dir {tmp_path}/out"
    with pytest.raises(SystemExit) as end:
        cli.main(f"{recipe} {model} --device {device} {out}".split())
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert f"device = {device!r}, but here there is only" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_G11_no_line_of_the_list_ends_in_mid_sentence(capsys):
    cli.main(["list"])
    text = " ".join(capsys.readouterr().out.partition("configurations:")[0].split())
    assert "reads and predicts one vector per sentence. frontier" in text
    for name in cli.recipes():
        assert cli._first_sentence(cli.FOLDER / f"{name}.py")[-1] in ".?!"


@pytest.mark.parametrize("words", ["--help", "list"])
def test_a_reader_that_leaves_early_ends_it_quietly(words):
    command = [sys.executable, "-m", "sllm_recipes.cli", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", ["--help", "list", "--version"])
def test_a_command_whose_output_is_lost_fails_and_says_so(words):
    command = [sys.executable, "-m", "sllm_recipes.cli", *words.split()]
    with open("/dev/full", "w") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("error: standard output: No space left on device")
    assert found.stderr.count("\n") == 1


TRAINED = ["finetune_mtp", "finetune_sllm", "pretrain_vae", "train_lm"]  # by as many processes as there are


def test_all_else_runs_once_however_many_processes_are_started():
    mains = {name: importlib.import_module(f"sllm_recipes.{name}").main for name in cli.recipes()}
    assert sorted(name for name, main in mains.items() if not getattr(main, "single_process", False)) == TRAINED
