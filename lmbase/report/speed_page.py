"""A benchmark's rows of generation as one HTML page of plots: speed over context and batch, and where time goes."""

from collections.abc import Sequence

from lmbase.report.cards import Card, line_card
from lmbase.report.charts import Series, stacked_bars
from lmbase.report.render import render
from lmbase.report.rows import Row

AXES = {"context": "tokens of context", "batch_size": "texts at once"}


def render_speed(rows: Sequence[Row]) -> str:
    """Rows as `sllm.benchmarks.generation` makes them; "" where there are none."""
    timed = [row for row in rows if row.tokens_per_second is not None and "context" in row.extra]
    if not timed:
        return ""
    speed = [card for axis, label in AXES.items() for card in _lines(timed, axis, label)]
    return render("speed.html", title="Writing speed", speed=speed, parts=_parts(timed))


def _lines(rows: Sequence[Row], axis: str, label: str) -> list[Card]:
    """Speed over one axis, all else as in the first row; nothing where nothing varies."""
    others = [name for name in AXES if name != axis]
    chosen = [row for row in rows if all(row.extra[name] == rows[0].extra[name] for name in others)]
    if len({row.extra[axis] for row in chosen}) < 2:
        return []
    lines = []
    for tint, model in enumerate(dict.fromkeys(row.model for row in rows)):  # of all, so that colours stay
        points = [(row.extra[axis], row.tokens_per_second or 0.0) for row in chosen if row.model == model]
        if points and "nothing accepted" not in model:
            lines.append(Series(model, sorted(points), tint, marked=True))
    return line_card(f"over {label}", lines, label, "tokens per second")


def _parts(rows: Sequence[Row]) -> list[Card]:
    """For each model with a limit, the parts of a token's time in its first row."""
    first = {row.model: row.extra for row in reversed(rows)}
    found = []
    for model in dict.fromkeys(row.model for row in rows):
        extra = first[model]
        parts = {name.removeprefix("limit_ms_"): ms for name, ms in extra.items() if name.startswith("limit_ms_")}
        if parts:
            parts["everything else"] = max(extra["milliseconds_per_token"] - sum(parts.values()), 0.0)
            found.append(Card(model, stacked_bars({name: {name: ms} for name, ms in parts.items()})))
    return found
