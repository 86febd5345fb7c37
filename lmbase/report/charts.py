"""Charts as SVG: lines, a histogram, bars of parts, and points, drawn by Matplotlib without a network or a display.

A chart for a page is inline: it takes its colours from the page's CSS variables (`--c0` ... `--c7`, `--ink`, `--muted`,
`--grid`), so that it follows the reader's light or dark setting.
"""

import io
import itertools
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from lmbase.report.formats import clean, number, with_unit

# The colours that charts are drawn in, and the variables of a page that take their places.
SERIES = ("#2c6fbb", "#d1622b", "#3a8f5b", "#8a56ac", "#b8891a", "#1f8f9b", "#c2417c", "#6b7280")
INK, MUTED, GRID = "#1d2129", "#667085", "#e7e9ee"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {tint: f"c{index}" for index, tint in enumerate(SERIES)}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "svg.hashsalt": "chart",  # the same chart gives the same file
    "text.parse_math": False,  # a model's name may hold dollar signs
    "font.size": 11,
    "axes.axisbelow": True,
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), GRID),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left", "ytick.left"), False),
}
HOVER = "hover-"
MOST_POINTS = 160
MANY_NAMES = 8  # more of them are written smaller
SIDES = np.array([(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)])  # of a dot, for its name
settings = matplotlib.rc_context(SETTINGS)
ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@dataclass
class Series:
    """A named line. `points` are (x, y), x ascending; a y that is not finite breaks the line."""

    name: str
    points: Sequence[tuple[float, float]]
    tint: int = 0  # number of its colour
    marked: bool = False  # a dot at each point, for few points (evaluations) beside many (training steps)


def colour(index: int) -> str:
    """The page's CSS colour of the index-th series."""
    return f"var(--c{index % len(SERIES)})"


@settings
def line_chart(series: Sequence[Series], x_label: str, y_label: str, *, shares: bool = False) -> Markup:
    """Lines over a common x axis, or "" where no point is finite.

    The y axis is logarithmic when the finite values are positive and span more than a factor of 12, and reaches from 0
    to 1 where they are shares. A line with more than `MOST_POINTS` points shows means of equal stretches of it.
    """
    finite = [y for line in series for _, y in line.points if math.isfinite(y)]
    if not finite:
        return Markup()
    logarithmic = not shares and min(finite) > 0 and max(finite) / min(finite) > 12
    axes = _axes(x_label, y_label + (" (log scale)" if logarithmic else ""))
    for line in filter(lambda line: line.points, series):
        stretches = np.array_split(np.array(line.points), min(MOST_POINTS, len(line.points)))
        x, y = np.array([stretch.mean(axis=0) for stretch in stretches]).T  # a broken value stays, so that it shows
        there = np.pad(np.isfinite(y), 1)
        alone = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])  # a point that no line reaches
        dots = range(len(y)) if line.marked else alone
        axes.plot(x, y, color=_tint(line.tint), marker="o", markersize=4.5, markevery=[int(index) for index in dots])
    if shares:
        axes.set_ylim(-0.03, 1.03)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter=tick)
    return _inline(axes, (line.name for line in series))


@settings
def histogram(counts: Sequence[tuple[float, float]], x_label: str, y_label: str) -> Markup:
    """Bars of (value, count), values ascending and of equal spacing, with the median marked; "" without counts.

    The last bar gathers the tail beyond the 99.5% quantile, so that a rare long sentence does not squeeze the rest.
    """
    values, heights = np.array([*counts]).reshape(-1, 2).T
    if heights.sum() <= 0:
        return Markup()
    reached = heights.cumsum() / heights.sum()
    median, last = values[np.searchsorted(reached, 0.5)], int(np.searchsorted(reached, 0.995))
    shown = [*heights[:last], heights[last:].sum()]
    step = min((b - a for a, b in itertools.pairwise(values)), default=1)
    has_tail = last < len(values) - 1
    axes = _axes(f"{x_label} (last bar: {values[last]:g} or more)" if has_tail else x_label, y_label)
    bars = axes.bar(values[: last + 1], shown, width=0.88 * step, color=_tint(0))
    bars[-1].set_alpha(0.5 if has_tail else 1)
    axes.axvline(median, color=_tint(1), linestyle="--")
    text, place = f"median {median:g}", (median, max(shown))
    axes.annotate(text, place, (5, 4), va="bottom", color=_tint(1), textcoords="offset points")
    return _inline(axes, [text])


@settings
def stacked_bars(bars: Mapping[str, Mapping[str, float]], show: Callable[[float], str] = number) -> Markup:
    """A horizontal bar from zero for each name, made of its parts, with their sum; "" without a part."""
    parts = _parts(bars)
    if not parts:
        return Markup()
    axes = _axes(height=26 * len(bars) + 8)
    sums = np.zeros(len(bars))
    for index, part in enumerate(parts):
        values = [of.get(part, 0.0) for of in bars.values()]
        drawn = axes.barh(range(len(bars)), values, left=sums, height=0.6, color=_tint(index))
        sums = sums + values
    axes.bar_label(drawn, [clean(show(value)) for value in sums], padding=5, color=INK, fontweight="bold")
    axes.set_yticks(range(len(bars)), map(_short, bars), color=INK)
    axes.set(ylim=(len(bars) - 0.4, -0.6), xlim=(0, 1.16 * max(sums) or 1))  # the first on top, room for the figure
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)
    return _inline(axes, (f"{name} {show(value)}" for name, value in zip(bars, sums, strict=True)))


def part_legend(bars: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str]]:
    """The legend of `stacked_bars`."""
    return [(colour(index), part, "") for index, part in enumerate(_parts(bars))]


def _parts(bars: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [*dict.fromkeys(part for of in bars.values() for part in of)]


@settings
def point_chart(points: Sequence[tuple[str, float, float, int]], x_label: str, y_label: str) -> Markup:
    """Labelled points (name, x, y, number of its colour) for a page; "" without points."""
    told = (f"{name} {number(y)} at {number(x)}" for name, x, y, _ in points)
    return _inline(_points(points, x_label, y_label), told) if points else Markup()


@settings
def point_file(
    points: Sequence[tuple[str, float, float, int]],
    x_label: str,
    y_label: str,
    line: Sequence[tuple[float, float]] = (),
) -> str:
    """The same as an SVG file of its own, on a white ground that reads on dark pages too, with a line (x, y)."""
    axes = _points(points, x_label, y_label, width=640, height=360 if len(points) <= MANY_NAMES else 480)
    if line:
        axes.plot(*zip(*line, strict=True), color=MUTED, zorder=1)
    return _svg(axes, "#ffffff")


@settings
def law_file(
    points: Sequence[tuple[float, float, int]], laws: Sequence[tuple[Series, str]], x_label: str, y_label: str
) -> str:
    """An SVG file: points (x, y, number of their colour) and curves over a logarithmic x axis.

    Args:
        laws: curves with the style of their line; each has its name at its end.
    """
    axes = _axes(x_label, y_label, width=640, height=420)
    axes.set_xscale("log")
    axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter=tick)
    for x, y, tint in points:
        axes.plot(x, y, "o", markersize=6, color=_tint(tint))
    for line, style in laws:
        axes.plot(*zip(*line.points, strict=True), color=_tint(line.tint), linestyle=style, zorder=1)
        axes.annotate(_short(line.name), line.points[-1], (5, 0), va="center", textcoords="offset points", fontsize=8.5)
    axes.margins(x=0.2)
    return _svg(axes, "#ffffff")


def _points(points: Sequence[tuple[str, float, float, int]], x_label: str, y_label: str, **size: int) -> Axes:
    axes = _axes(x_label, y_label, **size)
    xs = [x for _, x, _, _ in points]
    left = min(0.0, *xs)  # not the first point: noise must not look like a difference
    for _, x, y, tint in points:
        axes.plot(x, y, "o", markersize=9, color=_tint(tint))
    axes.margins(y=0.16)
    axes.set_xlim(left, (left + 1.12 * (max(xs) - left)) or 1)
    _name_dots(axes, sorted(points, key=lambda point: -point[2]))
    return axes


def _name_dots(axes: Axes, points: Sequence[tuple[str, float, float, int]]) -> None:
    """Write each name beside its dot, where it covers least of the dots and names there are."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    font = 11 if len(points) <= MANY_NAMES else 8.5
    frame = 72 * figure.get_size_inches() - (60, 50)  # in points, about: beside the frame stand ticks and labels
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    dots = [(np.array([x, y]) - low) / (high - low) * frame for _, x, y, _ in points]
    beyond = ((-9 * frame, frame * (0, 9)), (frame * (1, -9), 9 * frame))  # left and right of the frame
    taken = [*beyond, *((dot - 6, dot + 6) for dot in dots)]
    for (name, x, y, _), dot in zip(points, dots, strict=True):
        half = np.array([0.29 * font * len(_short(name)), 0.6 * font])  # of the text's box
        boxes = [(dot + side * (half + 9) - half, dot + side * (half + 9) + half) for side in SIDES]
        covered = [
            sum(np.prod(np.clip(np.minimum(b, d) - np.maximum(a, c), 0, None)) for c, d in taken) for a, b in boxes
        ]
        best = int(np.argmin(covered))
        taken.append(boxes[best])
        (right, up), gap = SIDES[best], 9 * SIDES[best]
        places: dict[str, Any] = {
            "ha": ("right", "center", "left")[right + 1],
            "va": ("top", "center", "bottom")[up + 1],
        }
        axes.annotate(_short(name), (x, y), tuple(gap), color=INK, textcoords="offset points", fontsize=font, **places)


@settings
def point_map(points: Sequence[tuple[float, float, int, str]]) -> Markup:
    """Points (x, y, number of its colour, text), each with its text where a pointer rests on it; "" without points."""
    if not points:
        return Markup()
    axes = _axes(height=340)
    for index, (x, y, tint, _) in enumerate(points):
        axes.plot(x, y, "o", markersize=6, color=_tint(tint), alpha=0.75, gid=f"{HOVER}{index}")
    axes.set(xticks=[], yticks=[])
    return _inline(axes, [f"{len(points)} dots"], [text for *_, text in points])


def tick(value: float, position: float | None = None) -> str:
    """A number at an axis as briefly as it goes: 0.05, 200, 8k, 1.5M."""
    scaled, unit = with_unit(value, "kMB")
    return f"{scaled:g}{unit}"


def _tint(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _short(name: str) -> str:
    return clean(name if len(name) <= 30 else name[:29] + "…")


def _axes(x_label: str = "", y_label: str = "", *, width: int = 460, height: int = 260) -> Axes:
    """Empty axes in a figure of this size in SVG units."""
    axes = Figure(figsize=(width / 72, height / 72), layout="constrained").add_subplot(facecolor="none")
    axes.set(xlabel=clean(x_label), ylabel=clean(y_label))
    axes.xaxis.set(major_locator=MaxNLocator(7, integer=True), major_formatter=tick)
    axes.yaxis.set(major_formatter=tick)
    axes.grid(axis="y")
    return axes


def _svg(axes: Axes, ground: str = "none") -> str:
    file, figure = io.StringIO(), axes.figure
    assert isinstance(figure, Figure)
    for artist in figure.findobj():
        artist.set_clip_on(False)  # a clip path needs names, which several charts on a page would share
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's browser has it
        undated = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", facecolor=ground, metadata=undated)
    return file.getvalue()


def _inline(axes: Axes, told: Iterable[str] = (), hover: Sequence[str] = ()) -> Markup:
    """A chart as part of a page: in its colours and its font, and without names that nothing refers to.

    Args:
        told: what a reader hears who does not see it, beside the names of its axes.
        hover: the text of each artist whose `gid` is `HOVER` and its number.
    """
    root = ElementTree.fromstring(_svg(axes))
    label = " over ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel())))
    label = ": ".join(filter(None, (label, clean(", ".join(told)))))
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    root.remove(root[0])  # a style sheet, which would rule the whole page
    for element in [*root.iter()]:
        if not element.tag.endswith("path"):  # the paths with names are marks, which stand in many places
            name = element.attrib.pop("id", "")
            if name.startswith(HOVER):
                ElementTree.SubElement(element, "title").text = clean(hover[int(name.removeprefix(HOVER))])
        if "style" in element.attrib:
            style = re.sub("#[0-9a-f]{6}", lambda match: f"var(--{VARIABLES[match[0]]})", element.attrib["style"])
            element.attrib["style"] = re.sub("'DejaVu Sans'[^;]*", "system-ui, sans-serif", style)
    return Markup(ElementTree.tostring(root, encoding="unicode"))
