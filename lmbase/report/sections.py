"""The tables of a report."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from lmbase.durations import duration
from lmbase.report.collect import Report
from lmbase.report.columns import cell, filled_columns, header, table_of, value
from lmbase.report.formats import number, short_count, size
from lmbase.report.rows import Row
from lmbase.report.tables import Table

# Columns that say what was measured; one that is the same wherever it is filled moves to a line below the table.
CIRCUMSTANCES = ("data", "protocol", "dtype", "speed_dtype", "device", "bytes", "tokens")
# What a table shows before all else.
MAIN = (
    "model", "protocol", "data", "bits_per_byte", "ratio", "reconstruction_exact_match", "tokens_per_second",
    "speed_ratio", "kv_bytes_per_token", "parameters", "training_tokens",
)  # fmt: skip
STATISTICS = (
    "split", "documents", "text", "sentences", "tokens", "tokens/sentence", "of uncut tokens", "documents by rule",
    "left out",
)  # fmt: skip


def groups_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Heading -> rows. Apart stand autoencoders, which see the text that they reproduce, and rows of other rules."""
    groups: dict[str, list[Row]] = {"All figures": [], "Autoencoders": [], "By other rules, not comparable": []}
    for row in rows:
        decodes = row.reconstruction_exact_match is not None and row.bits_per_byte is None
        groups[list(groups)[2 if not row.comparable else 1 if decodes else 0]].append(row)
    return {heading: group for heading, group in groups.items() if group}


def figure_tables(heading: str, rows: Sequence[Row]) -> list[Table]:
    """The columns that most readers want, the baseline's row first; and what else was measured, a line for each column.
    Circumstances that all rows share are told once. `nats` is left to metrics.json: bits per byte tell it."""
    baselines = [row.extra.get("compared_with") for row in rows]
    rows = sorted(rows, key=lambda row: row.model not in baselines)
    names = [name for name in filled_columns(rows) if name != "nats"]
    names = [name for name in names if not (name.endswith(("_low", "_high")) and name.rpartition("_")[0] in names)]
    shared = {}
    for name in CIRCUMSTANCES:
        found = {cell(row, name) for row in rows if value(row, name) is not None}
        if len(found) == 1:
            shared[name] = found.pop()
    names = [name for name in names if name not in shared]
    chosen = [name for name in MAIN if name in names]
    chosen += [name for name in names if name not in chosen][: max(0, 6 - len(chosen))]
    caption = ", ".join([heading, *(f"{header(name)} {text}" for name, text in shared.items())])
    table = table_of(rows, chosen, mark_best=True)
    table.caption = caption
    table.lines = [[_with_range(row, name) for name in chosen] for row in rows]
    rest = [name for name in names if name not in chosen]
    if not rest:
        return [table]
    titles = [" · ".join(filter(None, (row.model, row.protocol if "protocol" not in shared else ""))) for row in rows]
    lines = [[header(name), *(_with_range(row, name) for row in rows)] for name in rest]
    further = _of_numbers(["", *titles], lines)
    further.caption = f"{heading}: what else was measured"
    return [table, further]


def _with_range(row: Row, name: str) -> str:
    """A figure, and between what it lies where that is known."""
    low, high = (value(row, f"{name}{end}") for end in ("_low", "_high"))
    between = f" ({cell(row, f'{name}_low')}\u00a0to\u00a0{cell(row, f'{name}_high')})"
    return cell(row, name) + (between if low is not None and high is not None else "")


def histograms(statistics: dict[str, Any]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """(split, [(tokens per sentence, sentences)]) of a statistics.json, splits without sentences left out."""
    for split, figures in _splits(statistics).items():
        counts = figures.get("tokens_per_sentence") or {}
        pairs = counts.items() if isinstance(counts, dict) else enumerate(counts)
        points = sorted((float(tokens), float(count)) for tokens, count in pairs)
        points = list(itertools.dropwhile(lambda point: point[1] == 0, points))
        if points:
            yield split, points


def statistics_table(statistics: dict[str, Any], caption: str = "") -> Table | None:
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
    table = _of_numbers(STATISTICS, lines)
    table.caption = caption
    return table if lines else None


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
    table.caption = "Time and tokens of each run"
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
