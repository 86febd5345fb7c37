"""Three charts as inline SVG: lines, a histogram, bars. Strings in, strings out; no script and no plotting library.

Colours come from the page's CSS variables (`--c0` ... `--c7`, `--ink`, `--muted`, `--grid`), so a chart follows the
reader's light or dark setting. Every mark carries a `<title>`, which browsers show under the pointer.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lmbase.report.formats import number

NUM_COLOURS = 8
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 12, 40  # room for axis labels, in SVG units


@dataclass
class Series:
    """A named line. `points` are (x, y), x ascending; a y that is not finite breaks the line."""

    name: str
    points: list[tuple[float, float]]
    marked: bool = False  # a dot at each point, for few points (evaluations) beside many (training steps)


def colour(index: int) -> str:
    """The CSS colour of the index-th series."""
    return f"var(--c{index % NUM_COLOURS})"


def line_chart(
    series: Sequence[Series], x_label: str, y_label: str, *, tints: Sequence[int] | None = None, max_points: int = 160
) -> str:
    """Lines over a common x axis, or "" where no point is finite. `tints` are their colours, 0, 1, 2 ... if None.

    The y axis is logarithmic when the finite values are positive and span more than a factor of 12. A line with more
    than `max_points` points shows means of equal stretches of it.
    """
    width, height = 560, 300
    thinned = [Series(line.name, _thin(line.points, max_points), line.marked) for line in series]
    finite = [(x, y) for line in thinned for x, y in line.points if math.isfinite(y)]
    if not finite:
        return ""
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > 12
    x_axis = Axis.over(min(xs), max(xs), LEFT, width - RIGHT)
    y_axis = Axis.over(min(ys), max(ys), height - BOTTOM, TOP, logarithmic=logarithmic)
    parts = [_frame(x_axis, y_axis, x_label, y_label + (" (log scale)" if logarithmic else ""), width, height)]
    for tint, line in zip(tints or range(len(thinned)), thinned, strict=True):
        parts.append(_line(line, x_axis, y_axis, colour(tint)))
    return _svg(parts, width, height, f"{y_label} over {x_label}")


def histogram(counts: Sequence[tuple[float, float]], x_label: str, y_label: str) -> str:
    """Bars of (value, count), values ascending and of equal spacing, with the median marked; "" without counts.

    The last bar gathers the tail beyond the 99.5% quantile, so that a rare long sentence does not squeeze the rest.
    """
    width, height, total = 560, 260, sum(count for _, count in counts)
    if total <= 0:
        return ""
    reached, median, last = 0.0, counts[0][0], len(counts) - 1
    for index, (value, count) in enumerate(counts):
        if reached < total / 2 <= reached + count:
            median = value
        if reached < 0.995 * total <= reached + count:
            last = index
        reached += count
    shown = [*counts[:last], (counts[last][0], sum(count for _, count in counts[last:]))]
    has_tail = last < len(counts) - 1
    step = min((b[0] - a[0] for a, b in pairwise(counts)), default=1) or 1
    x_axis = Axis.over(shown[0][0] - step / 2, shown[-1][0] + step / 2, LEFT, width - RIGHT, rounded=False)
    y_axis = Axis.over(0, max(count for _, count in shown), height - BOTTOM, TOP)
    parts = [_frame(x_axis, y_axis, x_label, y_label, width, height)]
    bar = abs(x_axis(step) - x_axis(0))
    for index, (value, count) in enumerate(shown):
        tail = has_tail and index == last
        label = f"{value:g}{' or more' if tail else ''}: {count:,.0f} ({100 * count / total:.1f}%)"
        top = y_axis(count)
        parts.append(
            f'<rect x="{x_axis(value) - bar * 0.44:.1f}" y="{top:.1f}" width="{bar * 0.88:.1f}" '
            f'height="{height - BOTTOM - top:.1f}" fill="var(--c0)" opacity="{0.5 if tail else 0.9}">'
            f"<title>{html.escape(label)}</title></rect>"
        )
    at = x_axis(median)
    parts.append(
        f'<line class="median" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        f'<text x="{at + 6:.1f}" y="{TOP + 10}">median {median:g}</text>'
    )
    return _svg(parts, width, height, f"{y_label} over {x_label}")


def bar_chart(bars: Sequence[tuple[str, float, int]], format_value: Callable[[float], str] = number) -> str:
    """Horizontal bars of (name, value, colour index) from zero, each with its value; "" without bars."""
    if not bars:
        return ""
    width, row, name_width, value_width = 560, 26, 200, 74
    longest = max(value for _, value, _ in bars) or 1
    parts = []
    for index, (name, value, tint) in enumerate(bars):
        middle = index * row + row / 2 + 4
        length = max(1.0, (width - name_width - value_width) * value / longest)
        figure = html.escape(format_value(value))
        short = html.escape(name if len(name) <= 30 else name[:29] + "…")
        parts.append(
            f"<g><title>{html.escape(name)}: {figure}</title>"
            f'<text class="name" x="{name_width - 8}" y="{middle + 4:.1f}" text-anchor="end">{short}</text>'
            f'<rect x="{name_width}" y="{middle - 8:.1f}" width="{length:.1f}" height="16" '
            f'rx="2" fill="{colour(tint)}"/>'
            f'<text class="value" x="{name_width + length + 6:.1f}" y="{middle + 4:.1f}">{figure}</text></g>'
        )
    return _svg(parts, width, len(bars) * row + 8, "bars")


@dataclass
class Axis:
    """Maps values to SVG units, linearly or by logarithm, and knows its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[float]
    logarithmic: bool = False

    @classmethod
    def over(
        cls, low: float, high: float, start: float, end: float, *, logarithmic: bool = False, rounded: bool = True
    ) -> Axis:
        """An axis that holds low..high, widened to round ticks unless `rounded` is off."""
        if low == high:
            low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
        if logarithmic:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
            low, high = max(t for t in ticks if t <= low * 1.001), min(t for t in ticks if t >= high * 0.999)
        else:
            raw = (high - low) / 5
            magnitude = 10.0 ** math.floor(math.log10(raw))
            step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
            ticks = [round(index * step, 12) for index in range(first, last + 1)]
            if rounded:
                low, high = ticks[0], ticks[-1]
        edge = (high - low) * 1e-9
        return cls(low, high, start, end, [tick for tick in ticks if low - edge <= tick <= high + edge], logarithmic)

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def _thin(points: Sequence[tuple[float, float]], max_points: int) -> list[tuple[float, float]]:
    """Means of equal stretches; a stretch with a broken value in it stays broken, so that it shows."""
    if len(points) <= max_points:
        return list(points)
    edges = [round(index * len(points) / max_points) for index in range(max_points + 1)]
    stretches = [points[start:end] for start, end in pairwise(edges)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in stretches]


def _line(line: Series, x_axis: Axis, y_axis: Axis, tint: str) -> str:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    parts = []
    for run in runs:
        path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in run)
        if len(run) > 1:
            parts.append(f'<polyline points="{path}" fill="none" stroke="{tint}" stroke-width="1.8"/>')
        for x, y in run:
            seen = line.marked or len(run) == 1
            look = 'r="3.2"' if seen else 'r="6" class="hover"'
            label = html.escape(f"{line.name}: {number(y)} at {x:,.0f}")
            place = f'cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}"'
            parts.append(f'<circle {place} {look} fill="{tint}"><title>{label}</title></circle>')
    return f"<g>{''.join(parts)}</g>"


def _frame(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str, width: int, height: int) -> str:
    base = height - BOTTOM
    parts = []
    for tick in y_axis.ticks:
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick)}</text>')
    for tick in x_axis.ticks:
        x = x_axis(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{_tick(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{width - RIGHT}" y1="{base}" y2="{base}"/>')
    centre, middle = (LEFT + width - RIGHT) / 2, (TOP + base) / 2
    turned = f'transform="rotate(-90 12 {middle})"'
    parts.append(f'<text x="{centre}" y="{height - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts.append(f'<text x="12" y="{middle}" text-anchor="middle" {turned}>{html.escape(y_label)}</text>')
    return "".join(parts)


def _tick(value: float) -> str:
    """A round number as briefly as it goes: 0.05, 200, 8k, 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _svg(parts: Sequence[str], width: int, height: int, label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
