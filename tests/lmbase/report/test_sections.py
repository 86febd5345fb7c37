"""The tables of a report."""

from lmbase.report.collect import collect
from lmbase.report.rows import Row
from lmbase.report.sections import (
    cost_table,
    figure_tables,
    groups_of,
    histograms,
    statistics_table,
)


def test_rows_that_do_not_compare_stand_apart():
    rows = [
        Row("opt", bits_per_byte=2.0),
        Row("vae", reconstruction_exact_match=0.5),
        Row("paper's", protocol="published", bits_per_byte=1.0),
    ]
    groups = {heading: [row.model for row in group] for heading, group in groups_of(rows).items()}
    assert groups == {"All figures": ["opt"], "Autoencoders": ["vae"], "By other rules, not comparable": ["paper's"]}
    assert list(groups_of(rows[:1])) == ["All figures"]


def test_what_all_rows_share_leaves_the_table():
    rows = [Row("a", data="d", dtype="fp32", nats=1.0, bytes=9), Row("b", data="d", dtype="bf16", nats=2.0, bytes=9)]
    (table,) = figure_tables("All", rows)
    assert (table.head, table.caption) == (["model", "dtype"], "All, data d, bytes 9")


def test_the_honest_table_begins_with_the_baseline_and_the_rest_has_a_line_per_column():
    ratio = {"compared_with": "tuned", "ratio": 1.1, "ratio_low": 1.0, "ratio_high": 1.2}
    rows = [
        Row("sllm", bits_per_byte=2.2, tokens_per_second=9.0, stop_nats=3.0, parameters=10, extra=ratio),
        Row("tuned", bits_per_byte=2.0, tokens_per_second=8.0, parameters=9, training_tokens=7),
    ]
    table, further = figure_tables("All", rows)
    assert [line[0] for line in table.lines] == ["tuned", "sllm"]
    assert table.lines[1][2] == "1.100 (1.000\u00a0to\u00a01.200)"
    assert not [name for name in (*table.head, *[line[0] for line in further.lines]) if "low" in name or "high" in name]
    assert list(further.head) == ["", "tuned", "sllm"]
    assert [list(line) for line in further.lines] == [["stop flag nats", "–", "3.000"], ["compared with", "–", "tuned"]]
    assert {table.head[column] for _, column in table.best} == {"bits/byte", "tokens/s"} - {"bits/byte"}


def test_statistics_of_splits_without_sentences_are_left_out():
    split = {"sentences": 6, "tokens": 60, "tokens_per_sentence": [0, 0, 2, 4]}
    statistics = {"name": "d", "splits": {"train": split, "valid": {"documents": 0}}}
    assert list(histograms(statistics)) == [("train", [(2.0, 2.0), (3.0, 4.0)])]
    table = statistics_table(statistics)
    assert table is not None
    assert [line[0] for line in table.lines] == ["train"]
    assert table.lines[0][5] == "10.00"
    assert statistics_table({"splits": {}}) is None


def test_costs_are_added_up(runs):
    table = cost_table(collect(runs))
    assert table is not None
    assert table.sum_line
    assert list(table.lines[-1]) == ["all", "", "4.00k", "50.0 s", ""]
    alone = cost_table(collect(runs / "trunk"))
    assert alone is not None
    assert not alone.sum_line
    assert len(alone.lines) == 1
