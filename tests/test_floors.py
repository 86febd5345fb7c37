"""Imports go down the floors only: recipes > sllm, multitoken > sentencevae > lmbase."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each package may import of ours, besides itself. `multitoken` knows nothing of sentences.
BELOW = {
    "lmbase": set(),
    "sentencevae": {"lmbase"},
    "multitoken": {"lmbase"},
    "sllm": {"lmbase", "sentencevae", "multitoken"},
    "recipes": {"lmbase", "sentencevae", "multitoken", "sllm"},
}
FILES = [path for package in BELOW for path in sorted((ROOT / package).rglob("*.py"))]


def imported_names(source: str) -> Iterator[str]:
    """Dotted names of all absolute imports, wherever they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def climbing_imports(package: str, source: str) -> list[str]:
    """Imports of ours that `package` may not have."""
    climbing = []
    for name in imported_names(source):
        top = "recipes" if name.startswith("sllm_recipes") else name.partition(".")[0]
        if top in {*BELOW, "tests", "data"} - BELOW[package] - {package}:
            climbing.append(name)
    return climbing


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    package = path.relative_to(ROOT).parts[0]
    assert climbing_imports(package, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("lmbase", "import sllm"),
        ("lmbase", "def f():\n    from sentencevae.modeling_sentencevae import SentenceVAE"),
        ("sentencevae", "from sllm import SLLM"),
        ("multitoken", "import sentencevae as s"),
        ("sllm", "from sllm_recipes import demo"),
        ("sllm", "import sllm_recipes.demo"),
        ("recipes", "from tests import helpers"),
    ],
)
def test_a_climbing_import_is_caught(package, source):
    assert len(climbing_imports(package, source)) == 1


def test_the_packages_are_found():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"lmbase", "sentencevae", "sllm", "recipes"}
