"""Every shipped configuration loads with its recipe, says how it is run, and fits together with the others."""

import importlib
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
FAMILIES = ["tiny", "small", *(f"opt{size}_h{layers}" for size in ("125m", "350m", "1.3b") for layers in (1, 2, 4))]
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


def load(name: str) -> Any:
    """The configuration as `sllm RECIPE NAME` reads it."""
    recipe = recipe_of(CONFIGS / f"{name}.yaml")
    config_class = next(iter(typing.get_type_hints(recipe.main).values()))
    return load_config(config_class, [name], CONFIGS)


def opt_of(family: str) -> str:
    """The trunk of a family: opt125m_h2 -> facebook/opt-125m."""
    return f"runs/opt_{family}" if family in ("tiny", "small") else f"facebook/opt-{family[3:].partition('_')[0]}"


def tuned(family: str) -> str:
    """Name of a family's fair baseline."""
    return f"opt_{family}_tuned" if family in ("tiny", "small") else f"opt_{family.partition('_')[0]}"


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_it_loads_and_its_opening_comment_is_its_command(path: Path) -> None:
    config = load(path.stem)  # by the command of the first line
    assert len(" ".join(opening_comment(path)[1:])) > 100, "no word on what to expect"
    if re.search("^output_dir:", path.read_text(encoding="utf-8"), re.MULTILINE):
        assert config.output_dir == f"runs/{path.stem}"


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_commands_and_folders_that_it_names_are_those_of_shipped_configurations(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for recipe, name in COMMAND.findall(text):
        assert recipe.replace("-", "_") in recipes()
        assert recipe_of(CONFIGS / f"{name}.yaml").__name__.endswith(recipe.replace("-", "_"))
    for script, name in re.findall(r"recipes/(\w+)\.py (\S+)", text):
        assert (script, name) == (recipe_of(path).__name__.rpartition(".")[2], path.stem)
    named = set(re.findall(r"runs/([\w.]*\w)", text)) - {"NAME", "demo"}
    others = {name for name in named if name not in NAMES}
    evaluations = {
        name for name in others if name.startswith("evaluate_") and name.removeprefix("evaluate_") in FAMILIES
    }
    trials = {name for name in others if name.startswith(f"{path.stem}_")}
    assert others == evaluations | trials


@pytest.mark.parametrize("family", FAMILIES)
def test_trunk_autoencoder_and_sllm_of_a_family_fit(family: str) -> None:
    vae, sllm, baseline = load(f"vae_{family}"), load(f"sllm_{family}"), load(tuned(family))
    # Width, tokenizer and tokens per sentence are those of the same trunk and of the same prepared data.
    assert vae.opt == sllm.opt == baseline.opt == opt_of(family)
    assert vae.data == sllm.data == baseline.data
    assert sllm.vae == vae.output_dir
    data = load(vae.data.removeprefix("runs/"))
    assert data.max_sentence_tokens == vae.max_sentence_tokens == 64
    if family in ("tiny", "small"):
        trunk = load(f"opt_{family}")
        assert trunk.opt == f"random:{family}"
        assert trunk.data == vae.data
        positions = trunk.context
        assert data.tokenizer.startswith("bpe:")
    else:
        size, layers = family.split("_h")
        assert f"opt-{size[3:]}" in OPT_SIZES
        assert vae.num_encoder_layers == vae.num_decoder_layers == int(layers)
        positions = 2048
        assert data.tokenizer == "facebook/opt-125m"  # all OPTs have the same one
    assert baseline.context == positions
    assert sllm.max_sentences < positions  # one is for the start state


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
        load(name).output_dir for name in (f"opt_{family}", f"vae_{family}", f"sllm_{family}", tuned(family))
    }
    assert config.baseline == tuned(family)
    assert config.data == load(f"data_{family}").output_dir


def test_every_promised_configuration_is_shipped() -> None:
    expected = {f"{part}_{family}" for part in ("vae", "sllm") for family in FAMILIES} | {tuned(f) for f in FAMILIES}
    assert expected <= set(NAMES)
