"""What a report is made from: a folder of runs, gathered, and the tables that its HTML and its Markdown form share.

Looks, at any depth, for
    log.jsonl         training: a record of losses or an evaluation per line
    metrics.json      rows of figures (`lmbase.report.write.rows`)
    statistics.json   what a corpus looks like when it is cut
    samples.json      {"generations": [{"model", "prompt", "text", "finish_reason"}],
                       "reconstructions": [{"model", "text", "reconstruction"}]}
A file that cannot be read is named in the report with the reason; it never stops the report.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmbase.report.formats import duration, number, short_count, size
from lmbase.report.rows import Row, cell, filled_columns, read_metrics, value

# Keys of a log record that count or pace the run; every other number in it is a loss.
PACE = ("step", "tokens", "seconds", "lr", "grad_norm", "tokens_per_second", "epoch")
# Columns that say what was measured; one that is the same wherever it is filled moves to a line below the table.
CIRCUMSTANCES = ("data", "protocol", "dtype", "speed_dtype", "device", "bytes", "tokens")

# A word or a mark with the white space before it. Chinese, Japanese and Korean characters each count as a word.
_CJK = "\u3001-\u30ff\u3400-\u9fff\uac00-\ud7af\uff01-\uff60"
_WORD = re.compile(rf"\s*(?:[{_CJK}]|[^\W{_CJK}]+|[^\w\s])|\s+")


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
    generations: list[dict[str, str]] = field(default_factory=list)
    reconstructions: list[dict[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [row for document in self.metrics.values() for row in document["rows"]]

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

    for path in _find(folder, "log.jsonl"):
        _try(report, path, lambda path: report.curves.append(read_log(path, _run_name(folder, path))))
    for path in _find(folder, "metrics.json"):
        _try(report, path, lambda path: report.metrics.update({_run_name(folder, path): read_metrics(path)}))
    for path in _find(folder, "statistics.json"):
        _try(report, path, lambda path: report.statistics.update({_run_name(folder, path): _read_object(path)}))
    for path in _find(folder, "samples.json"):
        _try(report, path, lambda path: _add_samples(report, _read_object(path)))
    if not (report.curves or report.metrics or report.statistics or report.generations or report.reconstructions):
        reasons = "".join(f"\n  {reason}" for reason in report.left_out)
        raise ValueError(
            f"{folder} holds nothing to report: no readable log.jsonl, metrics.json, statistics.json or samples.json"
            f"{reasons or '; was the run started with another output_dir?'}"
        )
    for path in map(Path, more_metrics):  # asked for by name, so one that cannot be read is an error
        report.metrics[path.stem] = read_metrics(path)
    return report


def read_log(path: Path, name: str) -> Curve:
    """A training log as a curve. Of a step that a resumed run wrote twice the later record counts.

    A last line that the end of a run cut short is passed over; any other broken line is a ValueError.
    """
    losses: dict[str, dict[float, float]] = {}
    evaluations: dict[str, dict[float, float]] = {}
    tokens_at: dict[float, float] = {}
    seconds = 0.0
    lines = path.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        try:
            record = json.loads(line)
            step = float(record["step"])
        except (ValueError, KeyError, TypeError) as error:
            if index == len(lines) - 1:
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
    paths = [path for path in folder.rglob(name) if "checkpoints" not in path.relative_to(folder).parts]
    return sorted(paths, key=lambda path: (path.stat().st_mtime, str(path)))


def _run_name(folder: Path, path: Path) -> str:
    name = path.parent.relative_to(folder).as_posix()
    return folder.resolve().name if name == "." else name


def _try(report: Report, path: Path, read) -> None:
    try:
        read(path)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:  # also JSON of another shape
        reason = str(error) if path.name in str(error) else f"{path}: {error}"
        report.left_out.append(reason)


def _read_object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object is expected, got {type(content).__name__}")
    return content


def _add_samples(report: Report, content: dict[str, Any]) -> None:
    for kind, keys in (("generations", ("prompt", "text")), ("reconstructions", ("text", "reconstruction"))):
        for sample in content.get(kind, []):
            missing = [key for key in keys if not isinstance(sample, dict) or not isinstance(sample.get(key), str)]
            if missing:
                raise ValueError(f"an entry of {kind} has no text under {missing}")
        getattr(report, kind).extend(content.get(kind, []))


# --- what both forms of the report need -------------------------------------------------------------------------------


def split_words(text: str) -> list[str]:
    """Words and punctuation marks, each with the white space before it; joined they are the text again."""
    return _WORD.findall(text)


def mark_differences(text: str, other: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts as stretches of (characters, differs), compared word by word (difflib)."""
    a, b = split_words(text), split_words(other)
    left: list[tuple[str, bool]] = []
    right: list[tuple[str, bool]] = []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if a1 > a0:
            left.append(("".join(a[a0:a1]), kind != "equal"))
        if b1 > b0:
            right.append(("".join(b[b0:b1]), kind != "equal"))
    return left, right


def tables(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """(heading, rows). Apart stand autoencoders, which see the text that they reproduce, and rows of other rules."""
    groups: dict[str, list[Row]] = {"Side by side": [], "Autoencoders": [], "By other rules, not comparable": []}
    for row in rows:
        decodes = row.reconstruction_exact_match is not None and row.bits_per_byte is None
        groups[list(groups)[2 if not row.comparable else 1 if decodes else 0]].append(row)
    return [(heading, group) for heading, group in groups.items() if group]


def table_columns(rows: Sequence[Row]) -> tuple[list[str], dict[str, str]]:
    """(columns to show, circumstances that all rows share). `nats` is left to metrics.json: bits per byte tell it."""
    columns = [name for name in filled_columns(rows) if name != "nats"]
    shared: dict[str, str] = {}
    for name in CIRCUMSTANCES:
        found = {cell(row, name) for row in rows if value(row, name) is not None}
        if len(found) == 1 and len(rows) > 1:
            shared[name] = found.pop()
    return [name for name in columns if name not in shared], shared


def histograms(statistics: dict[str, Any]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """(split, [(tokens per sentence, sentences)]) of a statistics.json, splits without sentences left out."""
    for split, figures in split_statistics(statistics).items():
        counts = figures.get("tokens_per_sentence") or {}
        pairs = counts.items() if isinstance(counts, dict) else enumerate(counts)
        points = sorted((float(tokens), float(count)) for tokens, count in pairs)
        points = list(itertools.dropwhile(lambda point: point[1] == 0, points))
        if points:
            yield split, points


def split_statistics(statistics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The per-split part of a statistics.json."""
    splits = statistics.get("splits", statistics)
    return {name: figures for name, figures in splits.items() if isinstance(figures, dict) and "sentences" in figures}


def statistics_table(statistics: dict[str, Any]) -> list[list[str]]:
    """Header and one line per split of a statistics.json; empty without splits."""
    lines = []
    for split, figures in split_statistics(statistics).items():
        sentences, tokens = figures["sentences"], figures.get("tokens", 0)
        ratio = figures.get("piecewise_to_whole_tokens")
        skipped = [f"{entry['count']:,} {reason}" for reason, entry in (figures.get("skipped") or {}).items()]
        lines.append([
            split,
            f"{figures.get('documents', 0):,}",
            size(figures.get("bytes", 0)),
            short_count(sentences),
            short_count(tokens),
            f"{tokens / sentences:.2f}" if sentences else "–",
            f"{ratio:.3f}" if ratio else "–",
            ", ".join(f"{rule} {count:,}" for rule, count in (figures.get("rules") or {}).items()) or "–",
            ", ".join(skipped) or "none",
        ])  # fmt: skip
    header = "split, documents, text, sentences, tokens, tokens/sentence, of uncut tokens, documents by rule, left out"
    return [header.split(", "), *lines] if lines else []


def cost_rows(report: Report) -> list[tuple[str, str, str, str, str]]:
    """(run, steps, tokens, time, tokens per second) per run, and their sum."""
    lines = []
    for cost in report.costs:
        speed = number(cost.tokens / cost.training_seconds) if cost.tokens and cost.training_seconds else "–"
        steps, tokens = (f"{cost.steps:,}" if cost.steps else "–"), (short_count(cost.tokens) if cost.tokens else "–")
        lines.append((cost.name, steps, tokens, duration(cost.seconds), speed))
    if len(lines) > 1:
        all_tokens, all_seconds = (sum(getattr(cost, name) for cost in report.costs) for name in ("tokens", "seconds"))
        lines.append(("all", "", short_count(all_tokens) if all_tokens else "–", duration(all_seconds), ""))
    return lines


COST_HEADERS = ("run", "steps", "tokens of text", "time", "tokens/s")


def clean(text: str) -> str:
    """Text that UTF-8 and HTML can hold: control characters become visible signs, lone surrogates U+FFFD."""
    signs = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
    return re.sub("[\ud800-\udfff]", "\ufffd", text.translate(signs))
