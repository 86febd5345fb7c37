"""A benchmark's rows of generation as one HTML page of plots: speed over context and batch, and where time goes."""

from collections.abc import Sequence

from lmbase.report.charts import Series, part_legend, stacked_bars
from lmbase.report.page import Card, line_card
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
    """The parts of a token's time for each model with a limit, in its first row."""
    bars: dict[str, dict[str, float]] = {}
    for row in rows:
        parts = {key.removeprefix("limit_ms_"): ms for key, ms in row.extra.items() if key.startswith("limit_ms_")}
        if parts and row.model not in bars:
            rest = max(row.extra["milliseconds_per_token"] - sum(parts.values()), 0.0)
            bars[row.model] = parts | {"everything else": rest}
    return [Card("milliseconds per token", stacked_bars(bars), legend=part_legend(bars))] if bars else []
