"""Imports go down: from a room to rooms below it, inside a room to files above in its list, and never in a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

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
# Inside a room, from the ground up: files and sub-rooms named here import only those named before them. Where a room
# has no list, its files may import each other in any order without a circle.
INSIDE: dict[str, list[str]] = {
    "lmbase": ["files", "processes", "text", "config", "modeling", "benchmarking", "training", "report"],
    "sllm": ["*", "evaluation", "loading", "benchmarks"],
    "multitoken": ["*", "benchmarks"],
    "sllm_data": ["synthetic", "*"],
}
FILES = [(room, path) for room, (folder, _) in ROOMS.items() for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(room: str, path: Path) -> str:
    parts = path.relative_to(ROOT / ROOMS[room][0]).with_suffix("").parts
    return ".".join([room, *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {module_name(room, path): path for room, path in FILES}


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


def place(module: str) -> int:
    """Where a module stands in the list of its room."""
    room, _, rest = module.partition(".")
    order = INSIDE.get(room, ["*"])
    first = rest.partition(".")[0]
    if not rest:  # the room's door opens on everything
        return len(order)
    return order.index(first if first in order else "*")


def climbing_imports(module: str, source: str) -> list[str]:
    """Imports of ours that `module` may not have."""
    room = module.partition(".")[0]
    climbing = []
    for name in imported_names(source):
        top = name.partition(".")[0]
        if top in ("tests", "data", "recipes"):
            climbing.append(name)
    for name in imported_modules(source):
        top = name.partition(".")[0]
        if top != room and ROOMS[top][1] >= ROOMS[room][1]:
            climbing.append(name)
        if top == room and name != room and place(name) > place(module):
            climbing.append(name)
    return climbing


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    assert climbing_imports(module, MODULES[module].read_text(encoding="utf-8")) == []


def import_circle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, or nothing."""
    graph = {module: imported_modules(source) - {module} for module, source in sources.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lmbase.text.segmentation", "import sllm"),
        ("lmbase.files", "def f():\n    from sentencevae import SentenceVAE"),
        ("lmbase.text.segmentation", "from lmbase.modeling import losses"),
        ("sentencevae.grouping", "from sllm import SLLM"),
        ("multitoken.copying", "import sentencevae as s"),
        ("sllm.scoring", "from sllm_recipes import demo"),
        ("sllm.scoring", "from sllm.evaluation import audit"),
        ("sllm_data.readers", "import sllm.scoring"),
        ("sllm_recipes.demo", "from tests import helpers"),
    ],
)
def test_a_climbing_import_is_caught(module, source):
    assert len(climbing_imports(module, source)) == 1


def test_a_circle_is_caught():
    sources = {"sllm.scoring": "import sllm.reading", "sllm.reading": "def f():\n    from sllm import scoring"}
    assert set(import_circle(sources)) == set(sources)


def test_the_rooms_are_found():
    assert {module.partition(".")[0] for module in MODULES} == set(ROOMS)


def test_no_module_imports_itself_in_a_circle():
    assert import_circle({name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}) == []


def test_no_import_hides_behind_type_checking():
    """Between modules of ours: what a type checker alone sees is a circle all the same."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                assert imported_modules(ast.unparse(node)) == set(), name
