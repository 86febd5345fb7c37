"""A benchmark's rows of generation as one HTML page of plots: speed over context and batch, and where time goes."""

import html
from collections.abc import Sequence

from lmbase.report.charts import Series, bar_chart
from lmbase.report.html_page import card, chart_card, page, section
from lmbase.report.rows import Row

AXES = {"context": "tokens of context", "batch_size": "texts at once"}


def render_speed(rows: Sequence[Row]) -> str:
    """Rows as `sllm.benchmarks.generation` makes them; "" where there are none."""
    timed = [row for row in rows if row.tokens_per_second is not None and "context" in row.extra]
    if not timed:
        return ""
    over = [chart for axis, label in AXES.items() if (chart := _lines(timed, axis, label))]
    parts = [section("Tokens per second", _cards(over))] if over else []
    note = (
        "Weight products measured alone, and the rest of the time a token took: attention, norms, choosing, Python, "
        "and its share of reading the prompt."
    )
    return page("Writing speed", [*parts, section("Milliseconds per token", _cards(_split(timed)), note)])


def _lines(rows: Sequence[Row], axis: str, label: str) -> str:
    """Speed over one axis, all else as in the first row; "" where nothing varies."""
    others = [name for name in AXES if name != axis]
    chosen = [row for row in rows if all(row.extra[name] == rows[0].extra[name] for name in others)]
    if len({row.extra[axis] for row in chosen}) < 2:
        return ""
    lines = []
    models = [model for model in dict.fromkeys(row.model for row in chosen) if "nothing accepted" not in model]
    for tint, model in enumerate(models):
        points = [(row.extra[axis], row.tokens_per_second or 0.0) for row in chosen if row.model == model]
        lines.append((tint, Series(model, sorted(points), marked=True)))
    return chart_card(f"over {label}", lines, label, "tokens per second")


def _split(rows: Sequence[Row]) -> list[str]:
    """For each model with a limit, the parts of a token's time in its first row."""
    found = []
    for model in dict.fromkeys(row.model for row in rows):
        extra = next(row.extra for row in rows if row.model == model)
        parts = {name.removeprefix("limit_ms_"): ms for name, ms in extra.items() if name.startswith("limit_ms_")}
        if parts:
            parts["everything else"] = max(extra["milliseconds_per_token"] - sum(parts.values()), 0.0)
            found.append(
                card(html.escape(model), bar_chart([(name, ms, tint) for tint, (name, ms) in enumerate(parts.items())]))
            )
    return found


def _cards(cards: Sequence[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>'
