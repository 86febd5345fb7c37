"""The command `sllm`.

    sllm RECIPE [CONFIG] [--key value ...]    run a recipe; CONFIG is a YAML file or the name of a shipped one
    sllm RECIPE --help                        every key of a recipe, with its default and meaning
    sllm --processes N RECIPE ...             a training in N processes of this machine, one for each GPU
    sllm list                                 the recipes and the shipped configurations
    sllm show CONFIG|RECIPE                   every key of a configuration, with its value, default and meaning
    sllm copy CONFIG [FILE]                   a shipped configuration, to edit; nothing is overwritten
    sllm check FILE ...                       all that is wrong with files of configuration, with lines
    sllm env                                  versions, hardware, threads and extras: to paste into an issue
    sllm completion bash|zsh                  what completes commands and keys in a shell
    sllm --version                            the version of this package

A recipe is a file in this folder with a docstring (its manual), a dataclass (its keys) and a function `main(config)`.
On several machines any of them runs by `torchrun ... -m sllm_recipes.NAME [CONFIG] [--key value ...]`, with `_` for `-`
in the name; torchrun, when it is stopped, ends with a traceback of its own and status 1.
"""

import ast
import difflib
import functools
import importlib
import io
import re
import shlex
import sys
import textwrap
from collections.abc import Collection, Sequence
from importlib import metadata
from itertools import takewhile
from pathlib import Path

from lmbase.standard_output import output_taken

FOLDER = Path(__file__).parent
TOOLS = ("show", "copy", "check", "env", "completion")
EARLIER_NAMES = {"train_opt": "train_lm"}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe that the command line names. Recipes are imported only when they run, so help comes at once."""
    with output_taken():
        _run(argv)


def _run(argv: Sequence[str] | None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a text is shown where its characters are not all known, too
    if not words or words[0] in ("-h", "--help", "help"):
        print(f"{__doc__}\n{_list_recipes()}")
        return
    if words[0] == "--version":
        print(f"sllm {_version()}")
        return
    if words[0] == "list":
        print(f"{_list_recipes()}\n\n{_list_configs()}")
        return
    if words[0] in TOOLS:
        from sllm_recipes import tools

        tools.run(words[0], words[1:], recipes())
        return
    processes = 0
    if words[0] in ("--processes", "--num_processes", "--num-processes"):
        if len(words) < 3 or not words[1].isdecimal() or not (processes := int(words[1])):
            print("error: expected sllm --processes N RECIPE ..., N a number from 1 on", file=sys.stderr)
            raise SystemExit(2)
        words = words[2:]
    name = words[0].replace("-", "_")
    name = EARLIER_NAMES.get(name, name)
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *TOOLS, "list"], n=3, cutoff=0.4)
        hint = (
            f"did you mean {' or '.join(map(_shown, near))}?" if near else f"known are {', '.join(map(_shown, known))}."
        )
        print(f"error: {words[0]!r} is not a recipe; {hint}", file=sys.stderr)
        raise SystemExit(2)
    if processes:
        from lmbase.processes import launch

        launch(processes, f"{__package__}.{name}", words[1:])
    run_recipe(name, words[1:])


def run_recipe(name: str, argv: Sequence[str]) -> None:
    """Run one recipe with the rest of the command line. Its keys are the dataclass that its `main` takes, or that its
    `config_class` makes of the command line. A recipe without shipped configurations may name the key that words
    without one are values of, as POSITIONAL, or several keys for a word each."""
    from lmbase.config import class_of_keys, run
    from lmbase.processes import Stopped, signals_handled, stop_at_once, stopped_by, tell_stopped

    stopped_by.clear()
    try:
        with signals_handled(stop_at_once):  # an import takes seconds
            recipe = importlib.import_module(f"{__package__}.{name}")
    except BaseException as error:  # an import that a signal interrupts may raise something else
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(tell_stopped(error)) from None
        if stopped_by:
            raise SystemExit(tell_stopped(Stopped(stopped_by[0]))) from None
        raise
    argv = _with_keys(argv, getattr(recipe, "POSITIONAL", ()))
    run(class_of_keys(recipe, argv), recipe.main, argv)


def run_command(command: str) -> None:
    """Run what is typed after `sllm`, shown first."""
    print(f"$ sllm {command}", flush=True)
    recipe, *argv = shlex.split(command)
    run_recipe(recipe.replace("-", "_"), argv)


def check_part(key: str, text: str, recipe: str, own: Collection[str]) -> None:
    """Raise ValueError where a configuration and keys, given as the text of a key, set what the recipe that runs them
    sets itself: the other value would not count."""
    from lmbase.config import class_of_keys, given_on_command_line, load_config

    module, words = importlib.import_module(f"{__package__}.{recipe.replace('-', '_')}"), shlex.split(text)
    given = given_on_command_line(load_config(class_of_keys(module, words), words, FOLDER / "configs"))
    if odd := sorted(given & set(own)):
        raise ValueError(f"--{odd[0]} would not count, as it is set for {recipe} here; leave it out of {key}.")


_FLAG = re.compile(r"--|-[A-Za-z]\Z")  # "-5 degrees" is none


def _with_keys(argv: Sequence[str], positional: str | tuple[str, ...]) -> list[str]:
    """The words of a command line, those before its first key with the keys that they are values of."""
    if argv and argv[0].endswith(".yaml"):
        return list(argv)
    words = list(takewhile(lambda word: not _FLAG.match(word), argv))
    if isinstance(positional, str):
        return [f"--{positional}", *argv] if words else list(argv)
    keyed = [part for key, word in zip(positional, words, strict=False) for part in (f"--{key}", word)]
    return [*keyed, *argv[min(len(positional), len(words)) :]]


def recipes() -> list[str]:
    """Names of the recipes, as modules: the files here that define `main(config)`; the others help them."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if _is_recipe(_parsed(path)))


def _is_recipe(module: ast.Module) -> bool:
    mains = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    return any([argument.arg for argument in node.args.args] == ["config"] for node in mains)


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _version() -> str:
    try:
        return metadata.version("sllm")
    except metadata.PackageNotFoundError:
        return "of unknown version: it was not installed by pip"


def _list_recipes() -> str:
    lines = ["recipes:"]
    for name in recipes():
        shown = f"  {_shown(name):<16} {_first_sentence(FOLDER / f'{name}.py')}"
        lines += textwrap.wrap(shown, 120, subsequent_indent=" " * 19)
    return "\n".join(lines)


def _list_configs() -> str:
    paths = sorted((FOLDER / "configs").glob("*.yaml"))
    width = max((len(path.stem) for path in paths), default=0)
    lines = [f"  {path.stem:<{width}}  {_first_comment(path)}" for path in paths]
    return "\n".join(["configurations:", *lines])


def _shown(name: str) -> str:
    return name.replace("_", "-")


def _first_sentence(path: Path) -> str:
    """The first sentence of a recipe's manual, which may take more than one line."""
    paragraph = (ast.get_docstring(_parsed(path)) or "").partition("\n\n")[0]
    sentence, stop, _ = " ".join(paragraph.split()).partition(". ")
    return sentence + stop.strip()


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().strip().removeprefix("#").strip()


if __name__ == "__main__":
    main()
