"""Commands of `sllm` that are no recipes: they look at configurations, at this machine, and at the command itself."""

import argparse
import difflib
import importlib
import os
import re
import shlex
import sys
import textwrap
import typing
from collections.abc import Sequence
from importlib import metadata
from itertools import chain
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from lmbase.benchmarking.environment import environment
from lmbase.config import Faults, class_of_keys, config_to_dict, load_config
from lmbase.config.options import keys_of, members, type_name
from lmbase.config.run import told
from lmbase.config.yaml_files import file_cases, find_config, flatten, key_lines, read_yaml
from lmbase.files import write_text
from lmbase.standard_output import output_taken

CONFIGS = Path(__file__).parent / "configs"
OPENING = re.compile(r"# sllm ([a-z][\w-]*)")  # the first line of a configuration says which recipe it is for


def run(name: str, words: Sequence[str], recipes: Sequence[str]) -> None:
    """Run one of these commands. Leaves with status 2 after a user's mistake.

    Args:
        words: the rest of the command line.
        recipes: the modules of all recipes.
    """
    tools = {"show": show, "copy": copy, "check": check, "env": env, "completion": completion}
    try:
        with output_taken():
            if "-h" in words or "--help" in words:
                print((tools[name].__doc__ or "").strip())
            else:
                tools[name](words, recipes)
    except (ValueError, OSError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def show(words: Sequence[str], recipes: Sequence[str]) -> None:
    """sllm show CONFIG|RECIPE [--key value ...]: every key with its value, default and meaning, as a YAML file."""
    if not words:
        raise ValueError("Nothing to show: sllm show CONFIG|RECIPE, such as lm_tiny, a file, or train-lm.")
    recipe, argv = words[0].replace("-", "_"), list(words[1:])
    if recipe not in recipes:
        recipe, argv = _recipe_of(find_config(words[0], CONFIGS), recipes), list(words)
    cls = _keys_of_recipe(recipe, argv)
    keys = keys_of(cls)
    values = flatten(config_to_dict(load_config(cls, argv, CONFIGS)), keys)
    print(f"# sllm {recipe.replace('_', '-')}")
    for name, key in keys.items():
        print()
        meaning = f"{key.help} ({type_name(key.type)}, default {key.default!r})"
        print(textwrap.fill(meaning, 118, initial_indent="# ", subsequent_indent="# "))
        value = yaml.safe_dump(values[name], default_flow_style=True, allow_unicode=True, width=1000)
        print(f"{name}: {value.removesuffix('...' + chr(10)).strip()}")


def copy(words: Sequence[str], recipes: Sequence[str]) -> None:
    """sllm copy CONFIG [FILE]: a shipped configuration as a file of your own (default: CONFIG.yaml here)."""
    if not 1 <= len(words) <= 2:
        raise ValueError("Expected sllm copy CONFIG [FILE]; sllm list shows the configurations.")
    source = find_config(Path(words[0]).name, CONFIGS)
    target = Path(words[1] if len(words) == 2 else source.name)
    if target.is_dir() or (words[1:] and words[1].endswith("/")):  # which a Path forgets
        target /= source.name
    if os.path.lexists(target):
        raise ValueError(f"{target} is there already, and nothing is overwritten: name another file.")
    if not target.parent.is_dir():
        raise ValueError(f"{target}: there is no folder {target.parent}: make it (mkdir -p), or name another.")
    write_text(target, source.read_text(encoding="utf-8"))  # half a file would be there already the next time
    print(f"{target}: edit it, then sllm {_recipe_of(target, recipes).replace('_', '-')} {shlex.quote(str(target))}")


def check(words: Sequence[str], recipes: Sequence[str]) -> None:
    """sllm check [RECIPE] FILE ...: all faults of each file. A file's first line, `# sllm RECIPE`, says what it is for,
    unless RECIPE does."""
    given = words[0].replace("-", "_") if words and words[0].replace("-", "_") in recipes else None
    files = list(words[given is not None :])
    if not files:
        raise ValueError("Nothing to check: sllm check FILE [FILE ...].")
    faulty = 0
    for name in files:
        try:
            path = find_config(name, CONFIGS)
            recipe = given or _recipe_of(path, recipes)
            faults = _faults(path, _keys_of_recipe(recipe, [str(path)]))
        except (ValueError, OSError) as error:
            faults = [str(error)]
        faulty += bool(faults)
        print("\n  ".join([f"{name}: {'not valid' if faults else 'valid'}", *faults]))
    if faulty:
        raise SystemExit(2)


def _faults(path: Path, cls: type) -> list[str]:
    """What is wrong in a file, in its values for special cases, too, in the order of lines."""
    keys = keys_of(cls)
    cases = file_cases(read_yaml(path, keys, []), keys)
    lines = key_lines(path)
    found: dict[str, int] = {}
    for table, case in (("", ""), *cases):
        try:
            load_config(cls, [str(path), *([f"--{table}={case}"] if table else [])])
        except Faults as error:
            for fault in error.lines:
                fault = fault.removeprefix(f"{path}: ").replace(f" ({path.name})", "")
                name = re.split(r"[ :=]", fault.lstrip("`"), maxsplit=1)[0]
                line = lines.get(f"by_{table}.{case}.{name}") or lines.get(name) or 0
                found.setdefault(fault, line)
    ordered = sorted(found.items(), key=lambda item: item[1])
    return [f"line {line}: {fault}" if line else fault for fault, line in ordered]


def env(words: Sequence[str], recipes: Sequence[str]) -> None:
    """sllm env: versions, hardware, threads, devices and extras of this installation."""
    found = environment()
    for name, value in (found["versions"] | {"revision": found["git_revision"]}).items():
        print(f"{name}: {value}")
    for name, value in found["hardware"].items():
        print(f"{name}: {', '.join(value) or 'none' if isinstance(value, list) else value}")
    extras: dict[str, list[str]] = {}
    for requirement in map(Requirement, metadata.requires("sllm") or []):
        for extra in metadata.metadata("sllm").get_all("Provides-Extra") or []:
            if requirement.marker and requirement.marker.evaluate({"extra": extra}):
                extras.setdefault(extra, []).append(requirement.name)
    for extra, names in extras.items():
        missing = [name for name in names if not _is_installed(name)]
        print(f"extra {extra}: {'installed' if not missing else 'without ' + ', '.join(missing)}")


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def completion(words: Sequence[str], recipes: Sequence[str]) -> None:
    """sllm completion bash|zsh: a script for the shell, such as for ~/.local/share/bash-completion/completions/sllm."""
    try:
        import shtab
    except ImportError:
        raise ValueError("The package shtab writes it: pip install 'sllm[completion]'.") from None
    if len(words) != 1 or words[0] not in ("bash", "zsh"):
        raise ValueError("Expected sllm completion bash, or zsh.")
    parser = argparse.ArgumentParser("sllm")
    commands = parser.add_subparsers()
    shipped: dict[str, list[str]] = {}
    for path in sorted(CONFIGS.glob("*.yaml")):
        shipped.setdefault(_recipe_of(path, recipes), []).append(path.stem)
    for recipe in recipes:
        help = sys.modules[_keys_of_recipe(recipe, ["--help"]).__module__].__doc__ or ""
        command = commands.add_parser(recipe.replace("_", "-"), help=help.partition("\n")[0], add_help=False)
        command.add_argument("config", nargs="?", choices=[*shipped.get(recipe, []), shtab.Choice("file")])
        for name, key in keys_of(_keys_of_recipe(recipe, ["--help"])).items():
            choices = [str(c) for kind in members(key.type) for c in typing.get_args(kind) if _is_literal(kind)]
            added = command.add_argument(f"--{name}", choices=choices or None, help=key.help.replace("%", "%%"))
            if not choices and str in members(key.type):
                vars(added)["complete"] = shtab.FILE
    tools = {name: commands.add_parser(name, help=name, add_help=False) for name in ("env", "list")}
    for tool in (show, copy, check, completion):
        help = (tool.__doc__ or "").partition(": ")[2]
        tools[tool.__name__] = commands.add_parser(tool.__name__, help=help, add_help=False)
    for name in ("show", "copy"):
        tools[name].add_argument("config", choices=[*chain(*shipped.values())])
    vars(tools["check"].add_argument("files", nargs="*"))["complete"] = shtab.FILE
    tools["completion"].add_argument("shell", choices=["bash", "zsh"])
    print(shtab.complete(parser, words[0]))


def _is_literal(kind: object) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _recipe_of(path: Path, recipes: Sequence[str]) -> str:
    """The recipe that the first line of a configuration names."""
    with path.open(encoding="utf-8", errors="replace") as file:
        match = OPENING.match(file.readline())
    name = match[1].replace("-", "_") if match else ""
    if name in recipes:
        return name
    near = difflib.get_close_matches(name, recipes, n=1)
    says = (
        f"is for {match[1]!r} by its first line, which is no recipe" if match else "does not say which recipe it is for"
    )
    raise ValueError(
        f"{path} {says}: give the recipe before it, or let its first line be `# sllm "
        f"{near[0].replace('_', '-') if near else 'RECIPE'}`."
    )


def _keys_of_recipe(recipe: str, argv: Sequence[str]) -> type:
    return class_of_keys(importlib.import_module(f"sllm_recipes.{recipe}"), argv)
