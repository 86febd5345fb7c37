"""Columns: their names, their figures, and the best of those that compare."""

import pytest

from lmbase.report.columns import TABLE, best_cells, cell, column, header, markdown_table
from lmbase.report.rows import Row


def test_table_shows_the_filled_columns_in_the_order_of_the_contract():
    rows = [
        Row("OPT", parameters=7_105_536, bits_per_byte=2.03124, kv_bytes_per_token=12288, extra={"note": None}),
        Row("SLLM", parameters=1_610_000_000, reconstruction_exact_match=0.5512, extra={"flops": 1.5e15}),
    ]
    lines = markdown_table(rows).splitlines()
    assert lines[0] == "| model | parameters | bits/byte | exact reconstruction | KV bytes/token | flops |"
    assert lines[1] == "|---|---:|---:|---:|---:|---:|"
    assert lines[2] == "| OPT | 7.11M | 2.0312 | – | 12,288 | – |"
    assert lines[3].startswith("| SLLM | 1.61B | – | 55.1% | – | 1,500,000,000,000,000")
    with pytest.raises(ValueError, match="no_such"):
        markdown_table(rows, ["model", "no_such"])


def test_best_is_per_corpus_and_protocol_and_never_a_published_figure():
    rows = [
        Row("a", protocol="full window", bits_per_byte=2.0, tokens_per_second=5.0, kv_bytes_per_token=8),
        Row("b", protocol="full window", bits_per_byte=1.9, tokens_per_second=9.0, kv_bytes_per_token=8),
        Row("b", protocol="equal context", bits_per_byte=1.8),
        Row("p", protocol="published", bits_per_byte=0.1, tokens_per_second=900.0),
    ]
    assert best_cells(rows, ["bits_per_byte", "tokens_per_second", "kv_bytes_per_token"]) == {
        (1, "bits_per_byte"),
        (1, "tokens_per_second"),
    }
    table = markdown_table(rows, bold_best=True)
    assert "**1.9000**" in table
    assert "published (not comparable)" in table
    assert "**0.1000**" not in table


def test_another_split_of_a_corpus_is_another_text():
    valid = [Row("a", "novels", bytes=1000, bits_per_byte=1.8), Row("b", "novels", bytes=1000, bits_per_byte=1.9)]
    test = [Row("a", "novels", bytes=5000, bits_per_byte=2.0), Row("b", "novels", bytes=5000, bits_per_byte=2.1)]
    assert best_cells([*valid, *test], ["bits_per_byte"]) == {(0, "bits_per_byte"), (2, "bits_per_byte")}


def test_figures_are_written_as_their_column_says():
    row = Row("m", reconstruction_exact_match=0.5512, seconds_to_first_sentence=0.012345, extra={"lossless": True})
    row.extra |= {"block_parameters": 1_610_000, "step_flops": 1.5e15, "seconds_per_step": 0.51234, "way": "fixed"}
    names = ["reconstruction_exact_match", "seconds_to_first_sentence", *row.extra]
    assert [cell(row, name) for name in names] == ["55.1%", "0.0123", "yes", "1.61M", "1.50e+15", "0.512", "fixed"]
    assert cell(row, "bits_per_byte") == "–"
    assert header("step_flops") == "step flops"
    assert header("training_flops") == "training FLOPs"


def test_a_column_s_own_entry_comes_before_a_pattern():
    assert column("training_flops") is TABLE["training_flops"]
    assert column("seconds_to_first_sentence").better == "lower"


def test_G9_the_best_is_marked_only_where_intervals_part():
    def row(name, speed, low, high, **ratio):
        return Row(name, bits_per_byte=2.0 * ratio.get("ratio", 1.0), tokens_per_second=speed,
                   extra=dict(tokens_per_second_low=low, tokens_per_second_high=high, **ratio))  # fmt: skip

    level = [row("base", 5, 4, 7), row("a", 6, 5.5, 9, ratio=0.99, ratio_low=0.98, ratio_high=1.01)]
    assert best_cells(level, ["bits_per_byte", "tokens_per_second"]) == set()
    apart = [row("base", 5, 4, 7), row("a", 8, 7.5, 9, ratio=0.99, ratio_low=0.98, ratio_high=0.995)]
    assert best_cells(apart, ["bits_per_byte", "tokens_per_second"]) == {(1, "bits_per_byte"), (1, "tokens_per_second")}
    once = [row("base", 5, 5, 5, rounds=1), row("a", 8, 8, 8, ratio=0.5, rounds=1)]  # one document, one round
    assert best_cells(once, ["bits_per_byte", "tokens_per_second"]) == set()


def test_perplexity_is_as_level_as_the_bits_that_it_tells():
    base = Row("base", bits_per_byte=2.0, ppl_per_baseline_token=20.0)
    for high, best in ((1.01, set()), (0.995, {(1, "ppl_per_baseline_token")})):
        other = Row("a", bits_per_byte=1.98, ppl_per_baseline_token=20.0**0.99)
        other.extra = dict(ratio=0.99, ratio_low=0.98, ratio_high=high)
        assert best_cells([base, other], ["ppl_per_baseline_token"]) == best


def test_what_is_no_finite_number_is_never_best():
    rows = [Row("a", bits_per_byte=2.0), Row("b", bits_per_byte=1.9), Row("c", bits_per_byte=float("nan"))]
    assert best_cells([rows[2], *rows[:2]], ["bits_per_byte"]) == {(2, "bits_per_byte")}
    rows[1].extra = {"ratio": "0.95", "ratio_low": None}
    assert best_cells(rows[:2], ["bits_per_byte"]) == {(1, "bits_per_byte")}
