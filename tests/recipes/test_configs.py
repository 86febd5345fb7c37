"""Every shipped configuration loads with its recipe, says how it is run, and fits together with the others."""

import functools
import importlib
import itertools
import re
import typing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lmbase.config import load_config
from lmbase.modeling.trunk import OPT_SIZES
from sllm_recipes.cli import recipes

CONFIGS = Path(importlib.import_module("sllm_recipes.cli").__file__ or "").parent / "configs"
PATHS = sorted(CONFIGS.glob("*.yaml"))
NAMES = [path.stem for path in PATHS]
FAMILIES = ["tiny", "small", "opt"]
TRUNKS = [f"facebook/{size}" for size in OPT_SIZES]
COMMAND = re.compile(r"sllm ([a-z][a-z-]*) ([a-z]+_[\w.]+\w)")
OPENING = re.compile(r"sllm ([a-z][a-z-]*) ([a-z][\w.]*\w)")  # of one word, too, which elsewhere may be anything


def opening_comment(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    length = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").strip() for line in lines[:length]]


def recipe_of(path: Path) -> ModuleType:
    """The recipe that the first line, `sllm RECIPE NAME [--key value ...]`, names."""
    match = OPENING.match(opening_comment(path)[0])
    assert match, f"{path.name} does not open with its command"
    assert match[2] == path.stem
    return importlib.import_module(f"sllm_recipes.{match[1].replace('-', '_')}")


def load(name: str, *argv: str) -> Any:
    """The configuration as `sllm RECIPE NAME ARGV` reads it."""
    recipe = recipe_of(CONFIGS / f"{name}.yaml")
    config_class = next(iter(typing.get_type_hints(recipe.main).values()))
    return load_config(config_class, [name, *argv], CONFIGS)


def trunk_of(family: str) -> str:
    """The trunk of a family."""
    return "facebook/opt-125m" if family == "opt" else f"runs/lm_{family}"


def tuned(family: str) -> str:
    """Name of a family's fair baseline."""
    return "lm_opt" if family == "opt" else f"lm_{family}_tuned"


@functools.cache
def every_run() -> set[str]:
    """Folders that shipped configurations write, for each trunk and number of layers."""
    written = {load(name).output_dir for name in NAMES}
    written |= {load(name, "--lm", trunk).output_dir for name in ("lm_opt", "mtp_opt") for trunk in TRUNKS}
    for trunk, layers in itertools.product(TRUNKS, "124"):
        written |= {load(name, "--lm", trunk, "--layers", layers).output_dir for name in ("vae_opt", "sllm_opt")}
    return written


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_it_loads_and_its_opening_comment_is_its_command(path: Path) -> None:
    config = load(path.stem)  # by the command of the first line
    assert len(" ".join(opening_comment(path)[1:])) > 100, "no word on what to expect"
    named = re.search("^output_dir: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    if named:
        assert re.sub(r"\{\w+\}", ".*", named[1]).startswith(f"runs/{path.stem.removesuffix('opt')}")
        assert "{" not in config.output_dir


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_commands_and_folders_that_it_names_are_those_of_shipped_configurations(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for recipe, name in COMMAND.findall(text):
        assert recipe.replace("-", "_") in recipes()
        assert recipe_of(CONFIGS / f"{name}.yaml").__name__.endswith(recipe.replace("-", "_"))
    for script, name in re.findall(r"-m sllm_recipes\.(\w+) (\S+)", text):
        assert (script, name) == (recipe_of(path).__name__.rpartition(".")[2], path.stem)
    written = every_run()
    named = {f"runs/{name}" for name in re.findall(r"runs/([\w.-]*\w)(?![\w{])", text)} - {"runs/NAME", "runs/demo"}
    made_up = ("runs/evaluate_", "runs/data_MODEL", f"runs/{path.stem}_")
    assert {name for name in named - written if not name.startswith((*made_up, "runs/demo/"))} == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_trunk_autoencoder_and_sllm_of_a_family_fit(family: str) -> None:
    vae, sllm, baseline = load(f"vae_{family}"), load(f"sllm_{family}"), load(tuned(family))
    # Width, tokenizer and tokens per sentence are those of the same trunk and of the same prepared data.
    assert vae.lm == sllm.lm == baseline.lm == trunk_of(family)
    assert vae.data == sllm.data == baseline.data
    assert sllm.vae == vae.output_dir
    data = load(vae.data.removeprefix("runs/"))
    assert data.max_sentence_tokens == vae.max_sentence_tokens == 64
    positions = 2048
    if family == "opt":
        assert data.tokenizer == "facebook/opt-125m"  # all OPTs have the same one
    else:
        trunk = load(f"lm_{family}")
        assert trunk.lm == f"random:{family}"
        assert trunk.data == vae.data
        positions = trunk.context
        assert data.tokenizer.startswith("bpe:")
    assert baseline.context == positions
    assert sllm.max_sentences < positions  # one is for the start state


@pytest.mark.parametrize("layers", ["1", "2", "4"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_one_configuration_serves_every_size(trunk: str, layers: str) -> None:
    """Runs of different trunks and layers have folders of their own, and the SLLM finds its autoencoder."""
    given = "--lm", trunk, "--layers", layers
    vae, sllm = load("vae_opt", *given), load("sllm_opt", *given)
    size = trunk.removeprefix("facebook/")
    assert (vae.output_dir, sllm.output_dir) == (f"runs/vae_{size}_h{layers}", f"runs/sllm_{size}_h{layers}")
    assert sllm.vae == vae.output_dir
    assert load("lm_opt", "--lm", trunk).output_dir == f"runs/lm_{size}"


def test_large_trunks_are_trained_more_gently() -> None:
    small, large = (load("sllm_opt", "--lm", trunk) for trunk in ("facebook/opt-125m", "facebook/opt-1.3b"))
    assert large.learning_rate < small.learning_rate
    assert (small.freeze_trunk_layers, large.freeze_trunk_layers) == (None, 1)
    assert load("sllm_opt", "--lm", "facebook/opt-1.3b", "--learning_rate", "1e-3").learning_rate == 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_baseline_reads_as_many_tokens_as_autoencoder_and_sllm(family: str) -> None:
    vae, sllm, baseline = load(f"vae_{family}"), load(f"sllm_{family}"), load(tuned(family))
    assert baseline.train_tokens == vae.train_tokens + sllm.train_tokens
    assert baseline.ema_decay == vae.ema_decay == sllm.ema_decay == 0
    assert baseline.dtype == vae.dtype == sllm.dtype


@pytest.mark.parametrize("family", ["tiny", "small"])
def test_evaluation_compares_the_finished_family_with_its_fair_baseline(family: str) -> None:
    config = load(f"evaluate_{family}")
    assert set(config.model) == {
        load(name).output_dir for name in (f"lm_{family}", f"vae_{family}", f"sllm_{family}", tuned(family))
    }
    assert config.baseline == tuned(family)
    assert config.data == load(f"data_{family}").output_dir


def test_every_promised_configuration_is_shipped() -> None:
    expected = {f"{part}_{family}" for part in ("vae", "sllm") for family in FAMILIES} | {tuned(f) for f in FAMILIES}
    assert expected <= set(NAMES)
