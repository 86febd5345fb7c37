"""The embedded corpus: the English documentation inside every Python installation. Nothing is imported or executed."""

import ast
import hashlib
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from lmbase.text import is_unicode

# Folders below the standard library's that are not part of it, or hold test code.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
TOPICS = "pydoc_data/topics.py"
HELD_OUT_SHARE = 0.05  # of the bytes, for valid and for test each
# An installation without sources still has a stray .py file or two; a corpus starts well above that.
SMALLEST_BYTES = 200_000
# A topic of which less than this share is new text repeats other topics.
NEW_SHARE = 0.1


@lru_cache(maxsize=1)
def read_stdlib(folder: str | None = None) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """Collect the documentation of this Python's standard library.

    A document is one module (its docstrings in source order, a blank line between them) or one topic of `help()`.
    A docstring that occurred before, and a topic that repeats others, are left out. Modules go to the splits by their
    top-level name, so that a package is never in two of them; the topics are one module.

    Args:
        folder: the library's folder; by default that of the running interpreter.

    Returns:
        `stdlib-VERSION-HASH` and {split: [(module name, text)]}. The hash is there because the text differs by version.

    Raises:
        ValueError: the installation carries no sources.
    """
    root = Path(folder or sysconfig.get_paths()["stdlib"])
    documents = [*_topics(root / TOPICS), *_modules(root)]
    size = sum(len(text.encode()) for _, text in documents)
    if size < SMALLEST_BYTES:
        raise ValueError(
            f"data='stdlib': {str(root)!r} has only {size} bytes of documentation. This Python was probably installed "
            "without its sources (a minimal, zipped or embedded build). Use a full one, or give files as `data`."
        )
    splits = _split_by_module(documents)
    return f"stdlib-{platform.python_version()}-{_hash(splits)[:8]}", splits


def _topics(path: Path) -> Iterator[tuple[str, str]]:
    """The texts behind `help("TOPIC")`: one dictionary literal in one file."""
    tree = _parse(path)
    assignments = [node.value for node in tree.body if isinstance(node, ast.Assign)] if tree else []
    topics: dict[str, str] = {}
    for value in assignments:
        if isinstance(value, ast.Dict):
            topics |= ast.literal_eval(value)
    seen: set[str] = set()
    # Longest first: "compound" contains "if", "while" and "for", which then are dropped.
    for name, text in sorted(topics.items(), key=lambda item: (-len(item[1]), item[0])):
        paragraphs = set(text.split("\n\n"))
        new = sum(len(p) for p in paragraphs - seen)
        if new > NEW_SHARE * len(text):
            yield f"pydoc_data.topics.{name}", text.strip()
        seen |= paragraphs


def _modules(root: Path) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if LEFT_OUT.intersection(relative.parts) or relative.as_posix() == TOPICS:
            continue
        tree = _parse(path)
        new = []
        for text in _docstrings(tree) if tree else ():
            if text not in seen:
                seen.add(text)
                new.append(text)
        if new:
            parts = relative.with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), "\n\n".join(new)


def _parse(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in other people's sources
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # missing, or a template rather than a module
        return None


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings in source order, cleaned of their indentation."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = (ast.get_docstring(node) or "").strip()
        if text and is_unicode(text):
            yield text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _docstrings(child)


def _split_by_module(documents: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """About 90/5/5 by bytes: modules in the order of their names' hashes fill test, then valid, then train."""
    sizes: dict[str, int] = {}
    for name, text in documents:
        module = name.partition(".")[0]
        sizes[module] = sizes.get(module, 0) + len(text.encode())
    target = HELD_OUT_SHARE * sum(sizes.values())
    split_of, filled = {}, {"test": 0, "valid": 0}
    for module in sorted(sizes, key=lambda m: hashlib.sha256(m.encode()).digest()):
        # A module that does not fit is left to train: a held-out split is many small modules, not one large one.
        split = next((s for s in filled if filled[s] + sizes[module] <= target), "train")
        split_of[module] = split
        if split != "train":
            filled[split] += sizes[module]
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    for name, text in documents:
        splits[split_of[name.partition(".")[0]]].append((name, text))
    return splits


def _hash(splits: dict[str, list[tuple[str, str]]]) -> str:
    digest = hashlib.sha256()
    for split, documents in splits.items():
        for name, text in documents:
            digest.update(f"{split}\0{name}\0{text}\0".encode())
    return digest.hexdigest()
