"""The table of faults that were seen, tests/faults.md: an id, what it was, and the tests that would find it again.

python tests/helpers/fault_table.py      # adds the tests whose names hold an id
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS / "faults.md"
LINE = re.compile(r"^\| ([A-G]\d+) \| (.*?) \| (.*?) \| (.*?) \|$", re.MULTILINE)


@dataclass
class Fault:
    """A line of the table; `open` says what no test covers, and why."""

    id: str
    what: str
    tests: list[str]  # file::function
    open: str

    def __str__(self) -> str:
        return f"| {self.id} | {self.what} | {'<br>'.join(self.tests)} | {self.open} |"


def read_faults() -> list[Fault]:
    lines = LINE.findall(TABLE.read_text(encoding="utf-8"))
    return [Fault(id, what, [test for test in tests.split("<br>") if test], left) for id, what, tests, left in lines]


@cache
def all_tests() -> list[str]:
    """Every test function, as file::function."""
    return [
        f"{path.relative_to(TESTS).as_posix()}::{node.name}"
        for path in sorted(TESTS.rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def ids_of(test: str) -> list[str]:
    """The ids that a test's name holds."""
    return re.findall(r"(?<=_)([A-G]\d+)(?=_)", test.partition("::")[2] + "_")


def main() -> None:
    known = all_tests()
    text = TABLE.read_text(encoding="utf-8")
    for fault in read_faults():
        named = [test for test in known if fault.id in ids_of(test)]
        fault.tests = sorted({*named, *(test for test in fault.tests if test in known)})
        text = re.sub(rf"^\| {fault.id} \|.*$", str(fault).replace("\\", r"\\"), text, flags=re.MULTILINE)
    TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
