"""What an evaluation or a benchmark has measured so far: one that was interrupted goes on where it was."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmbase.files import MANIFEST, write_text
from lmbase.hub import local_name
from lmbase.modeling.token_lm import DocumentNats
from lmbase.report.rows import Row

FILE_NAME = "measured.json"  # in the folder of its results, until it is finished


class Measured:
    """Keeps each result as it comes, beside what it is a result of.

    Args:
        folder: of the results.
        of: what all results depend on; results of something else are not taken up.
    """

    def __init__(self, folder: Path, of: dict[str, Any]) -> None:
        self.path, self.of = folder / FILE_NAME, json.loads(json.dumps(of))
        self.results: dict[str, Any] = {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["of"] == self.of:
                self.results = dict(found["results"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # none yet, or damaged: everything is measured anew

    def tell(self) -> None:
        """Say what is taken up, or why nothing is."""
        if self.results:
            print(f"Going on with what {self.path} has: {', '.join(self.results)}")
        elif self.path.is_file():
            print(
                f"{self.path} is damaged, or was measured on other files or with another configuration, version of the "
                "code or machine: everything is measured anew."
            )

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What `measure` gives, as JSON holds it; what it gave before an interruption if there is that."""
        if name not in self.results:
            self.results[name] = json.loads(json.dumps(measure()))
            write_text(self.path, json.dumps({"of": self.of, "results": self.results}) + "\n")
        return self.results[name]

    def row(self, name: str, measure: Callable[[], Row]) -> Row:
        """`once` of a row."""
        return Row.from_dict(self.once(name, lambda: measure().to_dict()))

    def rows(self, name: str, measure: Callable[[], tuple[list[Row], Any]]) -> tuple[list[Row], Any]:
        """`once` of rows and what names their text."""

        def plain() -> list:
            rows, corpus = measure()
            return [[row.to_dict() for row in rows], corpus]

        rows, corpus = self.once(name, plain)
        return [Row.from_dict(row) for row in rows], corpus

    def scores(
        self, name: str, measure: Callable[[], Sequence[tuple[Row, list[DocumentNats]]]]
    ) -> list[tuple[Row, list[DocumentNats]]]:
        """`once` of rows with what documents cost, of which nats and bytes are kept."""

        def plain() -> list:
            return [[row.to_dict(), [[d.nats, d.num_bytes] for d in found]] for row, found in measure()]

        kept = self.once(name, plain)
        return [(Row.from_dict(row), [DocumentNats([n], [], 0, b) for n, b in found]) for row, found in kept]

    def finished(self) -> None:
        """The results are written elsewhere."""
        self.path.unlink(missing_ok=True)


def identity(source: str) -> list:
    """What tells one state of a run, a folder or a file with a model from another: its manifest, else names, sizes and
    dates of its files."""
    path = Path(local_name(source))
    path = path / "model" if (path / "model").is_dir() else path
    if (path / MANIFEST).is_file():
        return [source, (path / MANIFEST).read_text(encoding="utf-8")]
    files = sorted(path.rglob("*")) if path.is_dir() else [path] * path.is_file()
    return [source, [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]]
