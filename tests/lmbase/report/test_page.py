"""What the report's page shows: colours by model, cards only where there is something to compare."""

from lmbase.report.charts import Series
from lmbase.report.collect import Curve, Report, collect
from lmbase.report.page import line_card, page_values
from lmbase.report.rows import Row


def report_of(*rows, curves=()):
    return Report("title", curves=list(curves), metrics={"run": {"rows": list(rows)}})


def test_a_model_has_one_colour_on_the_whole_page():
    curves = [Curve(name, {}, {"nats": [(1, 2.0)]}, {1: 9.0}, 1.0) for name in ("vae", "opt_tuned")]
    values = page_values(report_of(Row("opt"), Row("opt-tuned"), curves=curves))
    (card,) = values["training"]
    assert [(name, colour) for colour, name, _ in card.legend] == [("vae", "var(--c2)"), ("opt tuned", "var(--c1)")]


def test_bars_need_two_models_of_the_same_text_and_protocol():
    rows = [Row(name, data=data, bits_per_byte=2.0) for name, data in (("a", "d"), ("b", "d"), ("c", "e"))]
    ((_, cards, table, _),) = page_values(report_of(*rows))["figures"]
    assert [(card.heading, card.note) for card in cards] == [("bits/byte", "d")]
    assert len(table.lines) == 3


def test_evaluations_stand_over_tokens_where_every_run_counted_them(runs):
    values = page_values(collect(runs))
    assert ">tokens of text seen<" in values["training"][0].chart
    curve = Curve("a", {}, {"nats": [(1, 2.0), (2, 1.0)]}, {1: 9.0}, 1.0)
    (card,) = page_values(report_of(curves=[curve]))["training"]
    assert ">step<" in card.chart


def test_white_space_stays_outside_a_mark(runs):
    (first, second) = page_values(collect(runs))["reconstructions"]
    assert first["before"] == [("The", False), (" ", False), ("cat", True), (" sat.", False)]
    assert (first["exact"], second["exact"]) == (False, True)


def test_a_chart_without_a_finite_value_has_no_card():
    assert line_card("h", [Series("a", [(1, float("nan"))])], "x", "y") == []
