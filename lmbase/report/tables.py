"""A table of texts, as pages show it and as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """Column names and lines of cells.

    `numeric` holds the columns of numbers, which are set flush right, and `best` the (line, column) of figures to mark.
    """

    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    numeric: set[int] = field(default_factory=set)
    best: set[tuple[int, int]] = field(default_factory=set)
    caption: str = ""
    sum_line: bool = False  # the last line adds the others up

    @property
    def markdown(self) -> str:
        """The table in Markdown, with a line break at its end."""
        rules = ["---:" if index in self.numeric else "---" for index in range(len(self.head))]
        lines = [_line(map(escape_cell, self.head)), f"|{'|'.join(rules)}|"]
        for number, line in enumerate(self.lines):
            cells = [escape_cell(text) for text in line]
            lines.append(_line(f"**{c}**" if (number, i) in self.best else c for i, c in enumerate(cells)))
        return "\n".join(lines) + "\n"


def escape_cell(text: str) -> str:
    """One line, and no bar that would end the cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
