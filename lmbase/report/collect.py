"""What a report is made from: a folder of runs, gathered.

Looks, at any depth, for
    log.jsonl         training: a record of losses or an evaluation per line
    metrics.json      rows of figures (`lmbase.report.rows`)
    statistics.json   what a corpus looks like when it is cut
    samples.json      {"generations": [{"model", "prompt", "text", "finish_reason"}],
                       "reconstructions": [{"model", "text", "reconstruction"}]}
    details.json      what else an evaluation found (`lmbase.report.details`)
A file that cannot be read is named in the report with the reason; it never stops the report.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lmbase.files import from_lines, read_json
from lmbase.report.details import FILE_NAME as DETAILS
from lmbase.report.details import Details, read_details
from lmbase.report.rows import Row, read_metrics

FILES = ("log.jsonl", "metrics.json", "statistics.json", "samples.json", DETAILS)
NOTES = ("model", "truth", "finish_reason")  # what a sample may have beside its texts
# Keys of a log record that count or pace the run; every other number in it is a loss.
PACE = ("step", "tokens", "seconds", "lr", "grad_norm", "tokens_per_second", "epoch")


@dataclass
class Curve:
    """One training run, read from its log. Points are (step, value)."""

    name: str
    losses: dict[str, list[tuple[float, float]]]
    evaluations: dict[str, list[tuple[float, float]]]
    tokens_at: dict[float, float]  # step -> tokens of text seen so far
    seconds: float

    @property
    def steps(self) -> int:
        return int(max((points[-1][0] for points in [*self.losses.values(), *self.evaluations.values()]), default=0))

    @property
    def tokens(self) -> float:
        return max(self.tokens_at.values(), default=0)


@dataclass
class Cost:
    """What one run took; zero where its files do not tell."""

    name: str
    steps: int = 0
    tokens: float = 0
    training_seconds: float = 0
    wall_seconds: float = 0

    @property
    def seconds(self) -> float:
        return max(self.training_seconds, self.wall_seconds)


@dataclass
class Report:
    """Everything that a report shows."""

    title: str
    curves: list[Curve] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # run -> metrics.json
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)  # folder -> statistics.json
    details: dict[str, Details] = field(default_factory=dict)  # run -> details.json
    generations: list[dict[str, str]] = field(default_factory=list)
    reconstructions: list[dict[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.tables for row in rows]

    @property
    def tables(self) -> list[list[Row]]:
        """Rows that were measured together."""
        return [document["rows"] for document in self.metrics.values()]

    @property
    def costs(self) -> list[Cost]:
        costs = {curve.name: Cost(curve.name, curve.steps, curve.tokens, curve.seconds) for curve in self.curves}
        for name, document in self.metrics.items():
            if document.get("wall_seconds"):
                costs.setdefault(name, Cost(name)).wall_seconds = document["wall_seconds"]
        return list(costs.values())


# --- gathering --------------------------------------------------------------------------------------------------------


def collect(folder: str | Path, *, more_metrics: Sequence[str | Path] = (), title: str = "") -> Report:
    """Reads a folder of runs; arguments and errors as in `lmbase.report.write.write_report`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the output_dir of a run, or a folder that holds several")
    report = Report(title or f"Report: {folder.resolve().name}")

    def add(path: Path) -> None:
        name = _run_name(folder, path)
        if path.name == "log.jsonl":
            report.curves.append(read_log(path, name))
        elif path.name == "metrics.json":
            report.metrics[name] = read_metrics(path)
        elif path.name == "statistics.json":
            report.statistics[name] = read_json(path)
        elif path.name == DETAILS:
            report.details[name] = read_details(path)
        else:
            _add_samples(report, read_json(path))

    seen: set[Path] = set()
    for path in (path for name in FILES for path in _find(folder, name)):
        try:
            add(path)
            seen.add(path.resolve())
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:  # also JSON of another shape
            report.left_out.append(str(error) if path.name in str(error) else f"{path}: {error}")
    if not any(getattr(report, f.name) for f in fields(report) if f.name not in ("title", "left_out")):
        reasons = "".join(f"\n  {reason}" for reason in report.left_out)
        raise ValueError(
            f"{folder} holds nothing to report: no readable {', '.join(FILES[:-1])} or {FILES[-1]}"
            f"{reasons or '; was the run started with another output_dir?'}"
        )
    for path in map(Path, more_metrics):  # asked for by name, so one that cannot be read is an error
        path = path / "metrics.json" if path.is_dir() else path
        if path.resolve() not in seen:  # each once, also where it lies in the folder of runs
            seen.add(path.resolve())
            name = path.stem if path.stem not in (*report.metrics, "metrics") else str(path)
            report.metrics[name] = read_metrics(path)
    return report


def read_log(path: Path, name: str) -> Curve:
    """A training log as a curve. Of a step that a resumed run wrote twice the later record counts.

    A last line that the end of a run cut short is passed over; any other broken line is a ValueError.
    """
    losses: dict[str, dict[float, float]] = {}
    evaluations: dict[str, dict[float, float]] = {}
    tokens_at: dict[float, float] = {}
    seconds = 0.0
    text = path.read_text(encoding="utf-8")
    records = list(from_lines(text))
    for index, record in enumerate(records):
        try:
            if isinstance(record, ValueError):
                raise record
            step = float(record["step"])
            if not math.isfinite(step):
                raise ValueError(f"step {step}")
        except (ValueError, KeyError, TypeError) as error:
            if index == len(records) - 1 and not text.endswith("\n"):
                break
            raise ValueError(f"line {index + 1} is not a log record ({error})") from error
        target, figures = losses, record.get("losses", record)
        if "eval" in record:
            target, figures = evaluations, record["eval"]
        for key, figure in figures.items():
            if key not in PACE and isinstance(figure, (int, float)) and not isinstance(figure, bool):
                target.setdefault(key, {})[step] = float(figure)
        if "tokens" in record:
            tokens_at[step] = float(record["tokens"])
        seconds = max(seconds, float(record.get("seconds") or 0))
    if not losses and not evaluations:
        raise ValueError("no loss was logged yet")
    return Curve(
        name,
        {key: sorted(points.items()) for key, points in losses.items()},
        {key: sorted(points.items()) for key, points in evaluations.items()},
        tokens_at,
        seconds,
    )


def _find(folder: Path, name: str) -> list[Path]:
    """In the order in which they were last written, which is the order of the work."""
    inside = ((path, path.relative_to(folder).parts) for path in folder.rglob(name))
    paths = [path for path, parts in inside if not any(part == "checkpoints" or part[0] == "." for part in parts)]
    return sorted(paths, key=lambda path: (path.stat().st_mtime, str(path)))


def _run_name(folder: Path, path: Path) -> str:
    name = path.parent.relative_to(folder).as_posix()
    return folder.resolve().name if name == "." else name


def _add_samples(report: Report, content: dict[str, Any]) -> None:
    for kind, keys in (("generations", ("prompt", "text")), ("reconstructions", ("text", "reconstruction"))):
        for sample in content.get(kind, []):
            missing = [key for key in keys if not isinstance(sample, dict) or not isinstance(sample.get(key), str)]
            if missing:
                raise ValueError(f"an entry of {kind} has no text under {missing}")
            if wrong := [key for key in NOTES if not isinstance(sample.get(key), str | None)]:
                raise ValueError(f"an entry of {kind} has something else than text under {wrong}")
        getattr(report, kind).extend(content.get(kind, []))
