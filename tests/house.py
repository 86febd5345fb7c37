"""Measures of the house, counted in its sources: one Markdown table. `make house` prints it."""

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent / "helpers")]

import measures  # noqa: E402
from rooms import hidden_imports, import_circle, read_modules  # noqa: E402
from ways import ways  # noqa: E402


def number_and_names(found: Sequence[object], separator: str = "<br>") -> str:
    names = separator.join(f"`{item}`" for item in found)
    return f"{len(found)}: {names}" if found else "0"


def rows() -> list[tuple[str, str]]:
    """Each measure, with how it is counted, and its value."""
    files = measures.sources()
    by_room = {room: [file for file in files if file.startswith(f"{room}/")] for room in measures.FOLDERS}
    lines = {room: sum(map(measures.num_lines, inside)) for room, inside in by_room.items()}
    modules = read_modules()
    circle = import_circle(modules)
    hidden = [name for name, source in modules.items() if hidden_imports(source)]
    plain, configurations, mirrors = measures.wide_functions()
    ignores, kinds = measures.type_ignores(), measures.isinstance_of_models()
    wide = f"functions of more than {measures.MOST_ARGUMENTS} arguments (without self, *args, **kwargs)"
    found = [
        ("source lines (all lines of the rooms' .py files, no tests)", f"{sum(lines.values()):,}"),
        *[(f"source lines of {room}/ (and files)", f"{n:,} ({len(by_room[room])})") for room, n in lines.items()],
        ("files (.py, empty ones too)", str(len(files))),
        ("import circles (imports anywhere in a file)", number_and_names(circle, " → ")),
        ("modules that import ours under TYPE_CHECKING only", number_and_names(hidden)),
        (f"files of more than {measures.MOST_LINES} lines", number_and_names(measures.long_files())),
        (
            f"functions of more than {measures.MOST_FUNCTION_LINES} lines (from def to the last, docstring included)",
            number_and_names(measures.long_functions()),
        ),
        (wide, number_and_names(plain)),
        ("constructors of configurations with as many", number_and_names(configurations)),
        ("public doors with as many that mirror Transformers' signature", number_and_names(mirrors)),
        ("isinstance on kinds of models (calls in the source; files)", f"{len(kinds)} in {number_of_files(kinds)}"),
        ("`type: ignore` (comments; files)", f"{len(ignores)} in {number_of_files(ignores)}"),
        (
            "files that name a class of OPT or facebook/opt (docstrings and messages count)",
            number_and_names(measures.files_that_name_opt()),
        ),
        ("modules with logic but no test file of their name", number_and_names(measures.untested())),
    ]
    way = "files of ours whose functions are called, in the order of first call"
    names = {
        "prepare": "from a text file to prepared data",
        "train": "from an item of a PreparedSplit to an SLLM's loss",
        "generate": "one sentence by SLLM.generate",
    }
    return found + [(f"{names[name]}: {way}", number_and_names(called)) for name, called in ways().items()]


def number_of_files(places: Sequence[str]) -> str:
    return f"{len({place.partition(':')[0] for place in places})} files"


def table(found: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| measure | value |", "|---|---|", *(f"| {measure} | {value} |" for measure, value in found)])


if __name__ == "__main__":
    print(table(rows()))
