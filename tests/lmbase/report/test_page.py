"""What the report's page shows: colours by model, cards only where there is something to compare."""

from lmbase.report.charts import Series
from lmbase.report.collect import Curve, Report, collect
from lmbase.report.page import line_card, page_values
from lmbase.report.rows import Row


def report_of(*rows, curves=()):
    return Report("title", curves=list(curves), metrics={"run": {"rows": list(rows)}})


def test_G10_a_model_has_one_colour_on_the_whole_page():
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


def test_G10_no_chart_lays_perplexity_per_own_token_of_several_kinds_side_by_side():
    kinds = {"vae": ("perplexity",), "opt": ("perplexity", "bits_per_byte"), "sllm": ("perplexity", "bits_per_byte")}
    curves = [Curve(name, {}, {key: [(1, 2.0)] for key in keys}, {1: 9.0}, 1.0) for name, keys in kinds.items()]
    charts = {
        card.heading: [name for _, name, _ in card.legend] for card in page_values(report_of(curves=curves))["training"]
    }
    assert charts == {"perplexity": ["vae"], "bits/byte": ["opt", "sllm"]}


def test_G10_lines_are_compared_where_all_have_come():
    lines = [
        Series("a", [(1000, 9.0)]),
        Series("b", [(500, 8.0), (1000, 7.0), (18000, 2.0)]),
        Series("c", [(2000, 1.0)]),
    ]
    (card,) = line_card("h", lines, "tokens", "y", "evaluation")
    assert [figure for *_, figure in card.legend] == ["9.000", "7.000", "–"]
    assert card.note == "evaluation · figures at 1.00k tokens"


def test_G10_verdicts_and_meanings_stand_beside_the_figures():
    def row(name, ratio, low, high):
        return Row(
            name, bits_per_byte=2 * ratio, extra=dict(ratio=ratio, ratio_low=low, ratio_high=high, compared_with="o")
        )

    rows = [row("a", 1.0, 0.99, 1.01), row("b", 0.9, 0.8, 0.95), row("c", 1.2, 1.1, 1.3), Row("o", bits_per_byte=2.0)]
    values = page_values(report_of(*rows))
    assert [sentence.split(" is ")[1].split(":")[0] for sentence in values["verdicts"]] == [
        "level with o",
        "ahead of o",
        "behind o",
    ]
    assert "lower is better" in values["meanings"]["bits/byte"]
