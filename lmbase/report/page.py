"""What the templates of a report show. Its HTML page has styles and charts inline, no script, and fetches nothing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from lmbase.report.charts import Series, bar_chart, colour, histogram, line_chart
from lmbase.report.collect import Curve, Report
from lmbase.report.columns import cell, comparable_groups, filled_columns, header, meanings, table_of, value
from lmbase.report.differences import mark_differences
from lmbase.report.formats import duration, number, short_count, size
from lmbase.report.rows import Row
from lmbase.report.sections import (
    cost_table,
    groups_of,
    histograms,
    statistics_table,
    table_columns,
    training_table,
    verdicts,
)

BARS = ("bits_per_byte", "tokens_per_second", "kv_bytes_per_token", "reconstruction_exact_match")


@dataclass
class Card:
    """A chart in a frame. `legend` holds colour, name and last value of each line."""

    heading: str
    chart: Markup
    note: str = ""
    legend: list[tuple[str, str, str]] = field(default_factory=list)


def page_values(report: Report) -> dict[str, Any]:
    """What `report.html` and `report.md` are filled with; a section without content is empty."""
    names = [*(row.model for row in report.rows), *(curve.name for curve in report.curves)]
    tints = {name: index for index, name in enumerate(dict.fromkeys(map(_same, names)))}
    documents = {name: {**document, "rows": None} for name, document in report.metrics.items()}
    return dict(
        title=report.title,
        facts=_facts(report),
        verdicts=verdicts(report.rows),
        meanings=meanings(dict.fromkeys(name for row in report.rows for name in filled_columns([row]))),
        figures=[(heading, *_figures(rows, tints)) for heading, rows in groups_of(report.rows).items()],
        training=[*_evaluations(report.curves, tints), *_losses(report.curves)],
        training_table=training_table(report.curves),
        data=list(_data(report)),
        generations=report.generations,
        reconstructions=[_compared(sample) for sample in report.reconstructions],
        cost=cost_table(report),
        provenance={
            name: {key: known[key] for key in known if known[key] not in (None, {}, "")}
            for name, known in documents.items()
        },
        left_out=report.left_out,
    )


def line_card(heading: str, lines: Sequence[Series], x_label: str, y_label: str, note: str = "") -> list[Card]:
    """A line chart with its legend, which names each line's value at the last place that all lines have reached;
    nothing where no value is finite."""
    chart = line_chart(lines, x_label, y_label)
    ends = [line.points[-1][0] for line in lines if line.points]
    legend = []
    for line in lines:
        if reached := [y for x, y in line.points if x <= min(ends)]:
            legend.append((colour(line.tint), line.name.replace("_", " "), number(reached[-1])))
        elif line.points:  # it begins where another one has ended
            legend.append((colour(line.tint), line.name.replace("_", " "), "–"))
    if len(set(ends)) > 1:
        note = " · ".join(filter(None, (note, f"figures at {short_count(min(ends))} {x_label}")))
    return [Card(heading, chart, note, legend)] if chart else []


def _same(name: str) -> str:
    """A run's folder and the model in its rows may differ in this only; they are one model in one colour."""
    return name.replace("_", "-")


def _facts(report: Report) -> list[str]:
    comparable = [row for row in report.rows if row.comparable]
    models, num_bytes = len({row.model for row in comparable}), max((row.bytes or 0 for row in comparable), default=0)
    seconds = sum(cost.seconds for cost in report.costs)
    facts = [
        f"{models} model{'s' * (models > 1)}" if models else "",
        f"{size(num_bytes)} of unseen text scored" if num_bytes else "",
        f"{duration(seconds)} of work" if seconds else "",
    ]
    machines = [document["hardware"] for document in report.metrics.values() if document.get("hardware")]
    cores = {", ".join([*m.get("gpus", []), f"{m.get('cpu')}, {m.get('cores')} cores"]) for m in machines}
    return [*filter(None, facts), *sorted(cores)]


def _figures(rows: Sequence[Row], tints: dict[str, int]) -> tuple[list[Card], Any, dict[str, str]]:
    """Charts, table, and what all rows share. A chart stands where there are two models or more side by side."""
    columns, shared = table_columns(rows)
    several = [name for name in ("protocol", "data") if len({value(row, name) for row in rows if row.comparable}) > 1]
    cards = []
    for name in BARS:
        for indices in comparable_groups(rows, name).values():
            group = [rows[index] for index in indices]
            if len(group) > 1:
                bars = [(row.model, float(value(row, name)), tints[_same(row.model)]) for row in group]
                shown = {float(value(row, name)): cell(row, name) for row in group}
                note = " · ".join(filter(None, (value(group[0], which) for which in several)))
                cards.append(Card(header(name), bar_chart(bars, shown.__getitem__), note))
    return cards, table_of(rows, columns, mark_best=True), shared


def _evaluations(curves: Sequence[Curve], tints: dict[str, int]) -> Iterator[Card]:
    """One chart for each evaluated figure, over tokens where every run counted them. Language models are laid beside
    each other by bits per byte alone: what is per own token means something else in each kind of them."""
    by_bytes = "bits_per_byte"
    for key in dict.fromkeys(key for curve in curves for key in curve.evaluations):
        having = [c for c in curves if key in c.evaluations and (key == by_bytes or by_bytes not in c.evaluations)]
        if not having:
            continue
        by_tokens = all(step in curve.tokens_at for curve in having for step, _ in curve.evaluations[key])
        lines = []
        for curve in having:
            points = [(curve.tokens_at[step] if by_tokens else step, y) for step, y in curve.evaluations[key]]
            lines.append(Series(curve.name, points, tints[_same(curve.name)], marked=True))
        unit = "tokens of text seen" if by_tokens else "step"
        yield from line_card(header(key), lines, unit, header(key), "evaluation")


def _losses(curves: Sequence[Curve]) -> Iterator[Card]:
    for curve in curves:
        lines = [Series(key, points, index) for index, (key, points) in enumerate(curve.losses.items())]
        yield from line_card(curve.name, lines, "step", "loss", "training")


def _data(report: Report) -> Iterator[tuple[str, Any, list[Card]]]:
    for name, statistics in report.statistics.items():
        table = statistics_table(statistics)
        splits = list(histograms(statistics))[:2]  # train, and one to see whether it looks alike
        cards = [
            Card(f"Tokens per sentence, {split}", histogram(points, "tokens in a sentence", "sentences"))
            for split, points in splits
        ]
        if table:
            yield statistics.get("name") or name, table, cards


def _compared(sample: dict[str, str]) -> dict[str, Any]:
    """A reconstruction beside its text, both as they are and as stretches that are marked or not."""
    before, after = mark_differences(sample["text"], sample["reconstruction"])
    exact = sample["text"] == sample["reconstruction"]
    return {"model": "", **sample, "exact": exact, "before": list(_marks(before)), "after": list(_marks(after))}


def _marks(parts: Iterable[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """White space at the front of a marked stretch stays outside the mark, where it would look like a smudge."""
    for text, differs in parts:
        bare = text.lstrip()
        if differs and bare:
            yield text[: len(text) - len(bare)], False
        yield bare if differs and bare else text, differs
