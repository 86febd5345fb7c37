"""The command `sllm`.

    sllm RECIPE [CONFIG] [--key value ...]    run a recipe; CONFIG is a YAML file or the name of a shipped one
    sllm RECIPE --help                        every key of a recipe, with its default and meaning
    sllm list                                 the recipes and the shipped configurations

A recipe is a file in this folder with a docstring (its manual), a dataclass (its keys) and a function `main(config)`.
"""

import ast
import difflib
import importlib
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
NOT_RECIPES = ("__init__", "cli", "training_run")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe that the command line names. Recipes are imported only when they run, so help comes at once."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(f"{__doc__}\n{_list_recipes()}")
        return
    if words[0] == "list":
        print(f"{_list_recipes()}\n\n{_list_configs()}")
        return
    name = words[0].replace("-", "_")
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = (
            f"did you mean {' or '.join(map(_shown, near))}?" if near else f"known are {', '.join(map(_shown, known))}."
        )
        print(f"error: {words[0]!r} is not a recipe; {hint}", file=sys.stderr)
        raise SystemExit(2)
    run_recipe(name, words[1:])


def run_recipe(name: str, argv: Sequence[str]) -> None:
    """Run one recipe with the rest of the command line. Its keys are the dataclass that its `main` takes, or that its
    `config_class` makes of the command line."""
    from lmbase.config.command_line import run

    recipe = importlib.import_module(f"{__package__}.{name}")
    if hasattr(recipe, "config_class"):
        keys = recipe.config_class(argv)
    else:
        keys = next(iter(typing.get_type_hints(recipe.main).values()))
    run(keys, recipe.main, argv)


def recipes() -> list[str]:
    """Names of the recipes, as modules."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_RECIPES)


def _list_recipes() -> str:
    lines = [f"  {_shown(name):<16} {_first_line(FOLDER / f'{name}.py')}" for name in recipes()]
    return "\n".join(["recipes:", *lines])


def _list_configs() -> str:
    paths = sorted((FOLDER / "configs").glob("*.yaml"))
    width = max((len(path.stem) for path in paths), default=0)
    lines = [f"  {path.stem:<{width}}  {_first_comment(path)}" for path in paths]
    return "\n".join(["configurations:", *lines])


def _shown(name: str) -> str:
    return name.replace("_", "-")


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().strip().removeprefix("#").strip()


if __name__ == "__main__":
    main()
