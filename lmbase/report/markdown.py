"""The report as Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from lmbase.report.collect import COST_HEADERS, Report, clean, cost_rows, statistics_table, table_columns, tables
from lmbase.report.formats import number
from lmbase.report.rows import markdown_table


def render_markdown(report: Report) -> str:
    """The report without its charts, for terminals, issues and repositories."""
    parts = [f"# {_line(report.title)}\n"]
    for heading, rows in tables(report.rows):
        columns, shared = table_columns(rows)
        parts.append(f"## {heading}\n\n" + markdown_table(rows, columns, bold_best=True))
        if shared:
            parts.append("All rows: " + ", ".join(f"{name} {_line(text)}" for name, text in shared.items()) + ".\n")
    for name, statistics in report.statistics.items():
        lines = statistics_table(statistics)
        if lines:
            parts.append(f"## Data: {_line(statistics.get('name') or name)}\n\n" + _table(lines[0], lines[1:]))
    if report.curves:
        body = []
        for curve in report.curves:
            for kind, group in (("", curve.losses), ("eval ", curve.evaluations)):
                for key, points in group.items():
                    finite = [y for _, y in points if math.isfinite(y)]
                    body.append(
                        [curve.name, kind + key, *(number(y) if finite else "–" for y in (finite[:1] + finite[-1:]))]
                    )
        parts.append("## Training\n\n" + _table(["run", "figure", "first", "last"], body))
    if report.costs:
        parts.append("## Cost\n\n" + _table(COST_HEADERS, cost_rows(report)))
    if report.generations:
        parts.append("## Generated text\n")
        for sample in report.generations:
            reason = f" ({_line(sample['finish_reason'])})" if sample.get("finish_reason") else ""
            parts.append(
                f"**{_line(sample.get('model', ''))}**{reason}\n\n" + _fence(sample["prompt"] + "⟶" + sample["text"])
            )
    if report.reconstructions:
        exact = sum(sample["text"] == sample["reconstruction"] for sample in report.reconstructions)
        diff = []
        for sample in report.reconstructions:
            same = sample["text"] == sample["reconstruction"]
            diff.append(f"{'  ' if same else '- '}{_line(sample['text'])}")
            diff += [] if same else [f"+ {_line(sample['reconstruction'])}"]
        head = f"## Reconstructions\n\n{exact} of {len(report.reconstructions)} are exact.\n\n"
        parts.append(head + _fence("\n".join(diff), "diff"))
    if report.left_out:
        parts.append("## Left out\n\n" + "".join(f"- {_line(reason)}\n" for reason in report.left_out))
    return clean("\n".join(parts))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(_line(text).replace("|", "\\|") for text in line) + " |\n" for line in lines)


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _fence(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
