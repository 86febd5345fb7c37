"""Plots of a benchmark show every model and where its time goes."""

from lmbase.report.rows import Row
from lmbase.report.speed_page import render_speed


def rows(contexts, batches=(1,)):
    return [
        Row(
            f"{model} <tiny>",
            tokens_per_second=100.0 * speed / context,
            extra={
                "context": context,
                "batch_size": batch,
                "milliseconds_per_token": 10.0,
                "limit_ms_trunk": 4.0,
                "limit_ms_vocabulary": 3.5,
            },
        )
        for context in contexts
        for batch in batches
        for speed, model in ((1, "OPT"), (2, "SLLM"))
    ]


def test_lines_over_what_varies():
    page = render_speed(rows([64, 256]))
    assert "over tokens of context" in page
    assert "over texts at once" not in page
    assert page.count("SLLM &lt;tiny&gt;") >= 2
    assert "<tiny>" not in page
    assert "over texts at once" in render_speed(rows([64], (1, 8)))


def test_what_a_token_takes_adds_up():
    page = render_speed(rows([64]))
    assert all(f">{value}<" in page for value in ("4", "3.5", "2.5")) or "2.500" in page
    assert "everything else" in page


def test_rows_without_speed_make_no_page():
    assert render_speed([]) == ""
    assert render_speed([Row("OPT", extra={"context": 4096, "note": "has 2048 positions"})]) == ""
