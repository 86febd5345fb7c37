"""Wrong command lines and YAML files, for every recipe and every key: exit status 2, the value, what was expected."""

import functools
import importlib
import typing

import pytest
from soak import tried

from lmbase.config.options import keys_of, members
from sllm_recipes import cli

RECIPES = cli.recipes()


def keys_of_recipe(name):
    recipe = importlib.import_module(f"sllm_recipes.{name}")
    if hasattr(recipe, "config_class"):
        return keys_of(recipe.config_class([]))
    return keys_of(next(iter(typing.get_type_hints(recipe.main).values())))


def told(words, capsys) -> str:
    """What the screen says of a command line that must be refused."""
    tried()
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2, words
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """A recipe that starts all the same ends the test, not the afternoon."""
    for name in RECIPES:
        recipe = importlib.import_module(f"sllm_recipes.{name}")

        @functools.wraps(recipe.main)
        def started(config):
            pytest.fail(f"it was taken: {config}")

        monkeypatch.setattr(recipe, "main", started)


def wrong_values(tp) -> list[str]:
    """Values that a key of this type cannot have."""
    kinds = members(tp)
    if any(kind is str or typing.get_origin(kind) in (list, tuple) for kind in kinds):
        return []  # a word may be right; recipes check those themselves
    values = ["nonsense", "1.5x", "{a: 1}"]
    if int in kinds or float in kinds:
        values += ["nan", "true"]
    return [*values, "inf", "1e400"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_value_of_another_type(recipe, capsys):
    for name, key in keys_of_recipe(recipe).items():
        for value in wrong_values(key.type):
            text = told([recipe, f"--{name}", value], capsys)
            assert f"{name} = " in text, (name, value, text)
            assert "expected" in text, (name, value, text)


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_unknown_key_and_a_key_without_value(recipe, capsys):
    for name, key in list(keys_of_recipe(recipe).items())[:8]:
        assert "unknown key; did you mean" in told([recipe, f"--{name}x", "1"], capsys)
        if bool not in members(key.type):
            assert f"--{name} (command line): a value is missing" in told([recipe, f"--{name}"], capsys)


FILES = {
    "a key twice": (b"seed: 1\nseed: 2\n", "twice"),
    "a list": (b"- 1\n- 2\n", "key: value"),
    "a word": (b"hello\n", "key: value"),
    "no YAML": (b"seed: [1\n", "not valid YAML"),
    "a tab": (b"seed:\n\t- 1\n", "not valid YAML"),
    "bytes": (bytes(range(128, 256)), "not valid YAML"),
    "an unknown key": (b"sed: 1\n", "unknown key; did you mean seed"),
    "a wrong type": (b"seed: {a: 1}\n", "seed"),
    "nested without end": (b"seed: " + b"[" * 5000 + b"]" * 5000, "nested too deeply"),
    "code": (b"seed: !!python/object/apply:os.system ['echo ran']\n", "not valid YAML"),
    "nothing": (b"data:\n", "data = None"),
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("recipe", ["train_lm", "finetune_sllm", "generate"])
def test_a_wrong_file(recipe, what, tmp_path, capsys):
    content, message = FILES[what]
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    text = told([recipe, str(path)], capsys)
    assert "config.yaml" in text
    assert message in text


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert "nowhere.yaml" in told(["train_lm", str(tmp_path / "nowhere.yaml")], capsys)
    assert "typo" in told(["train_lm", "typo"], capsys)
    assert str(tmp_path) in told(["train_lm", str(tmp_path)], capsys)
