"""Charts in frames: what their legends say, and which model has which colour."""

from lmbase.report.cards import Tints, line_card
from lmbase.report.charts import Series


def test_a_chart_without_a_finite_value_has_no_card():
    assert line_card("h", [Series("a", [(1, float("nan"))])], "x", "y") == []


def test_G10_lines_are_compared_where_all_have_come():
    lines = [
        Series("a", [(1000, 9.0)]),
        Series("b", [(500, 8.0), (1000, 7.0), (18000, 2.0)]),
        Series("c", [(2000, 1.0)]),
    ]
    (card,) = line_card("h", lines, "tokens", "y", "evaluation")
    assert [figure for *_, figure in card.legend] == ["9.000", "7.000", "–"]
    assert card.note == "evaluation · figures at 1.00k tokens"


def test_G10_a_model_has_one_colour_under_both_of_its_names():
    tints = Tints()
    assert [tints[name] for name in ("opt", "opt-tuned", "opt_tuned", "opt")] == [0, 1, 1, 0]
