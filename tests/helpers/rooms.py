"""The rooms of the project, their modules, and what these import of each other."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Import name of each room, where it lies, and how high: a room imports only lower ones. Those of equal height know
# nothing of each other.
ROOMS = {
    "lmbase": ("lmbase", 0),
    "sllm_data": ("data/sllm_data", 1),
    "sentencevae": ("sentencevae", 2),
    "multitoken": ("multitoken", 2),
    "sllm": ("sllm", 3),
    "sllm_recipes": ("recipes", 4),
}


def module_name(room: str, path: Path) -> str:
    parts = path.relative_to(ROOT / ROOMS[room][0]).with_suffix("").parts
    return ".".join([room, *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {
    module_name(room, path): path
    for room, (folder, _) in ROOMS.items()
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def read_modules() -> dict[str, str]:
    """The source of each module."""
    return {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}


def imported_names(source: str) -> Iterator[str]:
    """Dotted names of all absolute imports, wherever they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(source: str) -> set[str]:
    """Modules of ours that are imported, wherever in the file. A package is what its `__init__` holds."""
    found = set()
    for name in imported_names(source):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name:
            found.add(name)
    return found


def import_circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a circle, or nothing."""
    graph = {module: imported_modules(source) - {module} for module, source in sources.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def hidden_imports(source: str) -> set[str]:
    """Modules of ours that only a type checker sees imported: a circle between them would be one all the same."""
    blocks = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If))
    hidden = (ast.unparse(node) for node in blocks if "TYPE_CHECKING" in ast.unparse(node.test))
    return set().union(*map(imported_modules, hidden))
