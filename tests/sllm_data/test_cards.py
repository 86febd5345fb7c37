"""Cards of corpora: complete, true where it can be checked, and their commands are commands of this project."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from lmbase.config import load_config
from sllm_data.corpora import open_corpus
from sllm_recipes import prepare

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "data" / "cards").glob("*.yaml"))
CONFIGS = Path(prepare.__file__ or "").parent / "configs"
KEYS = ["name", "data", "source", "licence", "language", "size", "splits", "pinned", "commands"]


def card_of(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_says_everything(path: Path) -> None:
    card = card_of(path)
    assert [key for key in card if key != "example_name"] == KEYS
    assert all(card[key] for key in KEYS)


def parsed(command: str) -> str | list[str]:
    """The data that a command reads; it fails if its recipe or script does not know a word of it."""
    program, *words = shlex.split(command)
    if program == "sllm":
        assert words[0] == "prepare"
        return load_config(prepare.Config, words[1:], CONFIGS).data
    assert program == "python"
    assert (ROOT / words[0]).is_file()
    assert len(words) == 3
    return words[1]


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_commands_are_understood(path: Path) -> None:
    card = card_of(path)
    assert parsed(card["commands"][0]) == card["data"]
    assert any(command.startswith("sllm prepare") for command in card["commands"])
    if path.stem != "your_text":
        assert all(parsed(command) == card["data"] for command in card["commands"])


def test_each_corpus_that_the_recipe_names_has_a_card() -> None:
    named = set(re.findall(r"hub:[\w./-]+(?::[\w.-]+)?", prepare.__doc__ or ""))
    named |= {load_config(prepare.Config, [path.stem], CONFIGS).data for path in CONFIGS.glob("data_*.yaml")}
    assert named <= {card_of(path)["data"] for path in CARDS}


def test_the_embedded_corpus_is_called_as_its_card_says() -> None:
    """Its hash differs between versions and distributions of Python, so that only the form can be checked anywhere."""
    example = card_of(ROOT / "data" / "cards" / "stdlib.yaml")["example_name"]
    for name in (example, open_corpus("stdlib").name):
        assert re.fullmatch(r"stdlib-3\.\d+\.\w+-[0-9a-f]{8}", name)


def test_the_readme_names_each_file() -> None:
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "data" / "sllm_data").glob("[!_]*.py"):
        assert f"`sllm_data/{path.name}`" in text
    assert import_module("sllm_data").__doc__
