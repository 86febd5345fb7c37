"""Charts: what they show, in the page's colours, whatever the text in them."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from lmbase.report.charts import (
    Series,
    histogram,
    line_chart,
    part_legend,
    point_chart,
    point_file,
    point_map,
    stacked_bars,
    tick,
)

SVG = "{http://www.w3.org/2000/svg}"


def test_a_wide_range_gets_a_logarithmic_axis_and_a_narrow_one_does_not():
    wide = line_chart([Series("a", [(1, 0.01), (2, 8.0)])], "step", "loss")
    assert "log scale" in wide
    assert "log scale" not in line_chart([Series("a", [(1, 2.0), (2, 8.0)])], "step", "loss")
    assert "log scale" not in line_chart([Series("a", [(1, 0.0), (2, 8.0)])], "step", "loss")


def lines(chart):
    """M for each start and L for each stretch of the lines in the first colour."""
    drawn = [d for d, style in paths(chart) if "stroke: var(--c0)" in style and "fill: none" in style]
    return ["".join(re.findall("[ML]", d)) for d in drawn]


def paths(chart):
    return [
        (element.attrib["d"], element.attrib["style"]) for element in ElementTree.fromstring(chart).iter(f"{SVG}path")
    ]


def test_a_value_that_is_not_finite_breaks_the_line_and_an_empty_chart_is_no_chart():
    points = [(1, 3.0), (2, 2.0), (3, math.nan), (4, 1.5), (5, 1.2), (6, math.nan), (7, 1.0)]
    chart = line_chart([Series("a", points), Series("nothing yet", [])], "step", "loss")
    (line,) = lines(chart)
    assert line.rstrip("M") == "MLML"
    dots = [use for use in ElementTree.fromstring(chart).iter(f"{SVG}use") if "var(--c0)" in use.attrib["style"]]
    assert len(dots) == 1  # the last point, which no line reaches
    assert "nan" not in chart
    assert line_chart([Series("a", [(1, math.nan)])], "step", "loss") == ""
    assert histogram([(1, 0)], "tokens", "sentences") == histogram([], "tokens", "sentences") == ""
    assert stacked_bars({}) == point_chart([], "x", "y") == point_map([]) == ""


def test_long_runs_are_thinned_to_means():
    points = [(x, float(x % 2)) for x in range(1, 32_001)]
    chart = line_chart([Series("a", [*points[:16_000], *[(x, y + 1) for x, y in points[16_000:]]])], "step", "loss")
    (line,) = lines(chart)
    assert len(line) <= 160
    (heights,) = [re.findall(r"[ML] \S+ (\S+)", d) for d, style in paths(chart) if "stroke: var(--c0)" in style]
    assert len({round(float(height)) for height in heights}) == 2


def test_the_tail_of_a_histogram_is_gathered_and_its_median_marked():
    tail = [(float(x), 0.02) for x in range(4, 54)]
    chart = histogram([(1, 10.0), (2, 980.0), (3, 9.0), *tail], "tokens", "sentences")
    assert ">median 2<" in chart
    assert "tokens (last bar: 3 or more)" in chart
    assert sum("fill: var(--c0)" in style for _, style in paths(chart)) == 3
    assert "last bar" not in histogram([(1, 10.0), (2, 12.0)], "tokens", "sentences")


def test_bars_carry_their_name_and_the_sum_of_their_parts():
    bars = {"first": {"a": 2.5, "b": 1.0}, "second " * 9: {"b": 0.0, "c": 9.0}}
    chart = stacked_bars(bars, "{:.1f} units".format)
    assert all(f">{text}<" in chart for text in ("first", "3.5 units", "second second second second s…", "9.0 units"))
    assert "first 3.5 units" in ElementTree.fromstring(chart).attrib["aria-label"]  # what is heard is what is seen
    assert [name for _, name, _ in part_legend(bars)] == ["a", "b", "c"]
    assert all(f"fill: var(--c{tint})" in chart for tint in (0, 1, 2))


def test_shares_reach_from_none_to_all():
    chart = line_chart([Series("a", [(1, 0.9), (2, 0.01)])], "token", "share", shares=True)
    assert "log scale" not in chart
    assert ">0<" in chart
    assert ">1<" in chart


def test_a_dot_tells_its_text_where_a_pointer_rests():
    root = ElementTree.fromstring(point_map([(0.0, 1.0, 0, HOSTILE), (1.0, 2.0, 3, "\u0645\u0631\u062d\u0628\u0627")]))
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert titles[0].startswith("<b> & $x_$ ␀")
    assert titles[1] == "\u0645\u0631\u062d\u0628\u0627"
    assert root.attrib["aria-label"] == "2 dots"


def test_names_of_neighbours_stand_on_two_sides_and_speed_begins_at_zero():
    chart = point_chart([("a", 9.0, 0.0, 0), ("b", 9.05, 0.01, 1), ("far", 10.0, 1.0, 2)], "x", "y")
    texts = list(ElementTree.fromstring(chart).iter(f"{SVG}text"))
    places = {element.text: re.findall(r"-?[\d.]+", element.attrib["transform"])[-2:] for element in texts}
    (x_a, y_a), (_, y_b), (x_far, _) = ([float(part) for part in places[name]] for name in ("a", "b", "far"))
    assert y_b < y_a - 10  # the upper dot's name is above it, the lower one's below
    assert x_far - x_a < 60
    assert "0" in places


HOSTILE = '<b> & $x_$ \x00 \ud800 id="x" #2c6fbb url(http://a) 字'


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "chart",
    [
        line_chart([Series(HOSTILE, [(1, 2.0), (2, 1.0)], 3, marked=True)], HOSTILE, HOSTILE),
        histogram([(1, 2.0), (2, 1.0)], HOSTILE, HOSTILE),
        stacked_bars({HOSTILE: {HOSTILE: 1.0}}, lambda value: HOSTILE[:24]),
        point_chart([(HOSTILE, 1.0, 2.0, 0)], HOSTILE, HOSTILE),
        point_file([(HOSTILE, 1.0, 2.0, 0)], HOSTILE, HOSTILE),
    ],
)
def test_any_text_is_shown_as_it_is(chart):
    root = ElementTree.fromstring(chart)
    texts = [text for element in root.iter() for text in (element.text or "", element.attrib.get("aria-label", ""))]
    assert any(text.startswith("<b> & $x_$ ␀ \ufffd") for text in texts)
    assert not [element for element in root.iter() if element.tag.rpartition("}")[2] in ("script", "a", "image")]


def test_a_chart_of_a_page_has_the_page_s_colours_only():
    charts = line_chart([Series("a", [(1, 2.0), (2, 1.0)])], "x", "y") + point_chart([("a", 1.0, 2.0, 7)], "x", "y")
    assert not re.search('#[0-9a-f]{6}[;"]', charts)
    assert "var(--ink)" in charts
    assert "var(--c7)" in charts
    assert "<style" not in charts


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (200, "200"), (8000, "8k"), (1.5e6, "1.5M"), (-2e9, "-2B")]
)
def test_ticks_are_short(value, text):
    assert tick(value) == text
