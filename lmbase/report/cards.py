"""What a page is made of: charts in frames, and folded parts that hold them."""

from collections import UserDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lmbase.report.charts import Series, colour, line_chart
from lmbase.report.formats import number, short_count
from lmbase.report.tables import Table


@dataclass
class Card:
    """A chart in a frame. `legend` holds colour, name and last value of each line."""

    heading: str
    chart: Markup
    note: str = ""
    legend: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Section:
    """A part of the page that opens by a click: charts and tables, each with its heading."""

    heading: str
    cards: Sequence[Card] = ()
    note: str = ""
    tables: Sequence[Table] = ()


class Tints(UserDict[str, int]):
    """The number of each model's colour. A run's folder and the model in its rows may differ in a dash only; they are
    one model in one colour."""

    def __getitem__(self, name: str) -> int:
        return self.data.setdefault(name.replace("_", "-"), len(self.data))


def line_card(
    heading: str, lines: Sequence[Series], x_label: str, y_label: str, note: str = "", *, shares: bool = False
) -> list[Card]:
    """A line chart with its legend, which names each line's value at the last place that all lines have reached;
    nothing where no value is finite."""
    chart = line_chart(lines, x_label, y_label, shares=shares)
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
