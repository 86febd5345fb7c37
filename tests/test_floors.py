"""Imports go down: from a room to rooms below it, inside a room to files above in its list, and never in a circle."""

import pytest
from rooms import MODULES, ROOMS, hidden_imports, import_circle, imported_modules, imported_names, read_modules

# Inside a room, from the ground up: files and sub-rooms named here import only those named before them. Where a room
# has no list, its files may import each other in any order without a circle.
INSIDE: dict[str, list[str]] = {
    "lmbase": [
        "standard_output",
        "files",
        "hub",
        "processes",
        "durations",
        "text",
        "config",
        "modeling",
        "benchmarking",
        "training",
        "report",
    ],
    "sllm": ["*", "evaluation", "loading", "harness", "benchmarks", "serving"],
    "multitoken": ["*", "benchmarks"],
    "sllm_data": ["synthetic", "*"],
}


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
    assert import_circle(read_modules()) == []


def test_no_import_hides_behind_type_checking():
    assert {name: hidden_imports(source) for name, source in read_modules().items() if hidden_imports(source)} == {}


def test_a_hidden_import_is_caught():
    source = "if TYPE_CHECKING:\n    from sllm import SLLM\n    from torch import Tensor"
    assert hidden_imports(source) == {"sllm"}
