"""What can be counted in the sources."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rooms import ROOT

FOLDERS = ("lmbase", "data", "sentencevae", "multitoken", "sllm", "recipes")
MOST_LINES, MOST_FUNCTION_LINES, MOST_ARGUMENTS = 400, 60, 7
MODEL_KINDS = {"SLLM", "SLLMModel", "SentenceVAE", "SentenceVAEModel", "MultiTokenLM", "MultiTokenModel", "TokenLM"}
MODEL_KINDS |= {"PreTrainedModel"}
OPT_NAMES = re.compile(r"\bOPT(ForCausalLM|Config|Model)\b|facebook/opt")
MIRRORED = ("generate", "_of_transformers")  # their arguments are those that Transformers prescribes
FIRST_ARGUMENTS = ("self", "cls", "ctx")  # which nobody passes
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Found(NamedTuple):
    """A function, and how long or wide it is."""

    place: str
    size: int

    def __str__(self) -> str:
        return f"{self.place} ({self.size})"


@cache
def sources() -> dict[str, str]:
    """Every file of the rooms, below the project's folder; tests are none."""
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse(sources()[file])


def num_lines(file: str) -> int:
    return len(sources()[file].splitlines())


def long_files() -> list[str]:
    return [f"{file} ({num_lines(file)})" for file in sources() if num_lines(file) > MOST_LINES]


def functions() -> Iterator[tuple[str, Function, ast.ClassDef | None]]:
    """File and dotted name, function, and the class that it is a method of."""

    def below(node: ast.AST, name: str) -> Iterator[tuple[str, Function, ast.ClassDef | None]]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, Function | ast.ClassDef):
                yield from below(child, name)
                continue
            inner = f"{name}.{child.name}" if "::" in name and not name.endswith("::") else f"{name}{child.name}"
            if isinstance(child, Function):
                yield inner, child, node if isinstance(node, ast.ClassDef) else None
            yield from below(child, inner)

    for file in sources():
        yield from below(tree_of(file), f"{file}::")


def long_functions() -> list[Found]:
    """From `def` to the last line, docstring included."""
    sizes = [Found(place, (node.end_lineno or 0) - node.lineno + 1) for place, node, _ in functions()]
    return sorted((found for found in sizes if found.size > MOST_FUNCTION_LINES), key=lambda found: -found.size)


def wide_functions() -> tuple[list[Found], list[Found], list[Found]]:
    """Functions of many arguments, *args and **kwargs not counted; constructors of configurations that have as many;
    public doors that mirror Transformers' signature."""
    plain: list[Found] = []
    configurations: list[Found] = []
    mirrors: list[Found] = []
    for place, node, owner in functions():
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        size = sum(argument.arg not in FIRST_ARGUMENTS for argument in given)
        if size > MOST_ARGUMENTS:
            of_configuration = owner is not None and owner.name.endswith("Config") and node.name == "__init__"
            kind = configurations if of_configuration else mirrors if node.name in MIRRORED else plain
            kind.append(Found(place, size))
    return plain, configurations, mirrors


def isinstance_of_models() -> list[str]:
    """Where the code asks what kind of model it has."""
    found = []
    for file in sources():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and len(node.args) == 2:
                names = set(re.findall(r"\w+", ast.unparse(node.args[1])))
                if names & MODEL_KINDS or any(re.fullmatch(r"OPT\w*", name) for name in names):
                    found.append(f"{file}:{node.lineno}")
    return found


def type_ignores() -> list[str]:
    found = []
    for file, source in sources().items():
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and re.search(r"#\s*type:\s*ignore", token.string):
                found.append(f"{file}:{token.start[0]}")
    return found


def files_that_name_opt() -> list[str]:
    return [file for file, source in sources().items() if OPT_NAMES.search(source)]


def holds_logic(file: str) -> bool:
    """Whether a function or class is defined that has a body beside its docstring."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, Function | ast.ClassDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if any(not isinstance(part, ast.Pass) and ast.unparse(part) != "..." for part in body):
                return True
    return False


def test_file(file: str) -> Path:
    """Where a module's tests are: `lmbase/text/x.py` is tested in `tests/lmbase/text/test_x.py`."""
    path = Path(re.sub("^data/(sllm_data/)?", "sllm_data/", file))
    return ROOT / "tests" / path.parent / f"test_{path.stem}.py"


def untested() -> list[str]:
    """Modules with logic that have no such file; others may test them."""
    return [file for file in sources() if holds_logic(file) and not test_file(file).is_file()]
