"""What the long tier tried and found, as rows of metrics: hooks of pytest, which `conftest.py` takes in.

With SOAK=1 only files that import `soak` are run. With SOAK_TABLE=FOLDER their rows go to FOLDER/metrics.json, where
they replace earlier ones of the same tests, so that a soak may be run in pieces.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soak

from lmbase.benchmarking.environment import environment
from lmbase.report.rows import Row, read_metrics, write_metrics

FEWEST = 20  # a test with so many parameters is an instrument, too
VERSIONS = ("python", "torch", "transformers")


@dataclass
class Instrument:
    """A test with all its parameters; `found` counts those that failed."""

    tries: int = 0
    found: int = 0
    seconds: float = 0.0
    num_tests: int = 0
    by_chance: bool = False


instruments: dict[str, Instrument] = {}
began = time.monotonic()


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    if soak.SOAK:
        config.hook.pytest_deselected(items=[item for item in items if not _is_instrument(item.module)])
        items[:] = [item for item in items if _is_instrument(item.module)]


def _is_instrument(module: Any) -> bool:
    return any(getattr(thing, "__module__", "") == "soak" for thing in vars(module).values())


@pytest.fixture(autouse=True)
def count_tries(request: pytest.FixtureRequest, record_property: Any) -> Iterator[None]:
    soak.take_count()
    yield
    tries = getattr(request.function, "tries", 0) or soak.take_count()
    by_chance = bool(tries or request.node.get_closest_marker("soak"))
    record_property("tries", (tries or 1, by_chance))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = instruments.setdefault(report.nodeid.partition("[")[0], Instrument())
    found.seconds += report.duration
    found.found += report.failed
    if report.when == "teardown":
        told: dict[str, Any] = dict(report.user_properties)
        tries, by_chance = told.get("tries", (0, False))  # none: it was skipped
        found.tries += tries
        found.by_chance |= by_chance
        found.num_tests += tries > 0


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = os.environ.get("SOAK_TABLE")
    if folder and not hasattr(session.config, "workerinput"):
        write_table(Path(folder), session.config.rootpath)


def write_table(folder: Path, root: Path) -> None:
    """Rows of this run, after those of earlier ones whose tests are still there."""
    rows = {row.model: row for row in (read_metrics(folder)["rows"] if (folder / "metrics.json").is_file() else [])}
    made_on: dict[str, Any] = environment()
    for name, found in instruments.items():
        if found.by_chance or found.num_tests >= FEWEST:
            rows[name] = _row(name, found, made_on)
    kept = [row for name, row in sorted(rows.items()) if (root / name.partition("::")[0]).is_file()]
    if kept:
        write_metrics(folder, kept, config={}, seed=None, wall_seconds=time.monotonic() - began, corpus=None)


def _row(name: str, found: Instrument, made_on: dict[str, Any]) -> Row:
    hardware, versions = made_on["hardware"], made_on["versions"]
    columns = {
        "instrument": name.rpartition("::test_")[2].replace("_", " "),
        "tries": found.tries,
        "found": found.found,
        "seconds": round(found.seconds, 1),
        "hardware": f"{hardware['cores']} cores, {hardware['cpu']}",
        "versions": ", ".join(f"{library} {versions.get(library)}" for library in VERSIONS),
        "git_revision": made_on["git_revision"],
    }
    return Row(name, protocol="soak", extra=columns)
