"""The tables of a report, which its HTML and its Markdown form share."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from lmbase.report.collect import Curve, Report
from lmbase.report.columns import cell, filled_columns, value
from lmbase.report.formats import duration, number, short_count, size
from lmbase.report.rows import Row
from lmbase.report.tables import Table

# Columns that say what was measured; one that is the same wherever it is filled moves to a line below the table.
CIRCUMSTANCES = ("data", "protocol", "dtype", "speed_dtype", "device", "bytes", "tokens")
STATISTICS = (
    "split", "documents", "text", "sentences", "tokens", "tokens/sentence", "of uncut tokens", "documents by rule",
    "left out",
)  # fmt: skip


def groups_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Heading -> rows. Apart stand autoencoders, which see the text that they reproduce, and rows of other rules."""
    groups: dict[str, list[Row]] = {"Side by side": [], "Autoencoders": [], "By other rules, not comparable": []}
    for row in rows:
        decodes = row.reconstruction_exact_match is not None and row.bits_per_byte is None
        groups[list(groups)[2 if not row.comparable else 1 if decodes else 0]].append(row)
    return {heading: group for heading, group in groups.items() if group}


def table_columns(rows: Sequence[Row]) -> tuple[list[str], dict[str, str]]:
    """(columns to show, circumstances that all rows share). `nats` is left to metrics.json: bits per byte tell it."""
    unseen = ("nats", "tokens_per_second_low", "tokens_per_second_high")
    columns = [name for name in filled_columns(rows) if name not in unseen]
    shared: dict[str, str] = {}
    for name in CIRCUMSTANCES:
        found = {cell(row, name) for row in rows if value(row, name) is not None}
        if len(found) == 1 and len(rows) > 1:
            shared[name] = found.pop()
    return [name for name in columns if name not in shared], shared


def verdicts(rows: Sequence[Row]) -> list[str]:
    """What the ratios to the baseline say, a sentence for each model and way of cutting windows."""
    found = []
    for row in rows:
        ratio, low, high = (row.extra.get(key) for key in ("ratio", "ratio_low", "ratio_high"))
        if None in (ratio, low, high) or not row.comparable:
            continue
        assert low is not None
        assert high is not None
        word = "ahead of" if high < 1 else "behind" if low > 1 else "level with"
        baseline = row.extra.get("compared_with", "the baseline")
        found.append(f"{row.model} ({row.protocol}) is {word} {baseline}: {ratio:.3f} times its bits per byte, "
                     f"{low:.3f} to {high:.3f}.")  # fmt: skip
    return found


def histograms(statistics: dict[str, Any]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """(split, [(tokens per sentence, sentences)]) of a statistics.json, splits without sentences left out."""
    for split, figures in _splits(statistics).items():
        counts = figures.get("tokens_per_sentence") or {}
        pairs = counts.items() if isinstance(counts, dict) else enumerate(counts)
        points = sorted((float(tokens), float(count)) for tokens, count in pairs)
        points = list(itertools.dropwhile(lambda point: point[1] == 0, points))
        if points:
            yield split, points


def statistics_table(statistics: dict[str, Any]) -> Table | None:
    """One line per split of a statistics.json; None without splits."""
    lines = []
    for split, figures in _splits(statistics).items():
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
    return _of_numbers(STATISTICS, lines) if lines else None


def training_table(curves: Sequence[Curve]) -> Table | None:
    """The first and the last value of each logged figure of each run."""
    lines = []
    for curve in curves:
        for kind, group in (("", curve.losses), ("eval ", curve.evaluations)):
            for key, points in group.items():
                finite = [number(y) for _, y in points if math.isfinite(y)] or ["–"]
                lines.append([curve.name, kind + key, finite[0], finite[-1]])
    return _of_numbers(("run", "figure", "first", "last"), lines) if lines else None


def cost_table(report: Report) -> Table | None:
    """What each run took, and their sum."""
    costs, lines = report.costs, []
    for cost in costs:
        speed = number(cost.tokens / cost.training_seconds) if cost.tokens and cost.training_seconds else "–"
        steps, tokens = (f"{cost.steps:,}" if cost.steps else "–"), (short_count(cost.tokens) if cost.tokens else "–")
        lines.append([cost.name, steps, tokens, duration(cost.seconds), speed])
    if not lines:
        return None
    table = _of_numbers(("run", "steps", "tokens of text", "time", "tokens/s"), lines)
    if len(lines) > 1:
        total, seconds = sum(cost.tokens for cost in costs), sum(cost.seconds for cost in costs)
        lines.append(["all", "", short_count(total) if total else "–", duration(seconds), ""])
        table.sum_line = True
    return table


def _splits(statistics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    splits = statistics.get("splits", statistics)
    return {name: figures for name, figures in splits.items() if isinstance(figures, dict) and "sentences" in figures}


def _of_numbers(head: Sequence[str], lines: list[list[str]]) -> Table:
    """A table whose columns after the first are set as numbers."""
    return Table(head, lines, numeric=set(range(1, len(head))))
