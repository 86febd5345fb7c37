"""Rows, metrics.json, tables, and the arithmetic of figures."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmbase.benchmarking.environment import git_revision, hardware, library_versions
from lmbase.report.formats import duration, number, short_count, size
from lmbase.report.rows import (
    Row,
    best_cells,
    bits_per_byte,
    markdown_table,
    paired_bootstrap,
    perplexity,
    read_metrics,
    write_metrics,
)


def write(folder, rows, **changes):
    settings: dict = {"config": {"seed": 0}, "seed": 0, "wall_seconds": 1.5, "corpus": "stdlib-3.11"} | changes
    return write_metrics(folder, rows, **settings)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def mean_of_batch_means(nats, tokens):
    """Published fault 6: every batch weighs the same, however few tokens it holds."""
    return math.exp(np.mean([n / t for n, t in zip(nats, tokens, strict=True)]))


def test_unequal_batches_are_summed_before_dividing():
    nats, tokens = [300.0, 2.0], [100, 10]  # an easy last batch of ten tokens
    ours = perplexity(nats, tokens)
    assert ours == pytest.approx(math.exp(302 / 110))
    assert mean_of_batch_means(nats, tokens) < 0.4 * ours  # the fault flatters here by more than half
    assert mean_of_batch_means(nats, [100, 100]) == pytest.approx(
        perplexity(nats, [100, 100])
    )  # and hides on equal ones


def test_bits_per_byte_of_a_coin_per_byte_is_one():
    assert bits_per_byte(math.log(2) * 40, 40) == pytest.approx(1.0)
    assert bits_per_byte(torch.tensor([math.log(2), 0.0]), torch.tensor([1, 3])) == pytest.approx(0.25)


@pytest.mark.parametrize("nats", [float("nan"), [1.0, float("inf")]])
def test_a_document_without_a_finite_score_is_an_error_and_not_dropped(nats):
    with pytest.raises(ValueError, match="not finite"):
        bits_per_byte(nats, [3] * np.size(nats))


def test_nothing_scored_is_an_error():
    with pytest.raises(ValueError, match="0 bytes were scored"):
        bits_per_byte([], [])
    with pytest.raises(ValueError, match="no finite perplexity"):
        perplexity(1e6, 1)


def test_bootstrap_of_equal_models_is_one_without_spread():
    generator = np.random.default_rng(0)
    num_bytes = generator.integers(100, 2000, size=30)
    nats = num_bytes * generator.uniform(0.5, 2, size=30)  # documents differ a lot; the pairs do not
    assert paired_bootstrap(nats * 1.02, num_bytes, nats, num_bytes) == pytest.approx((1.02, 1.02, 1.02))


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for seed in range(100):
        num_bytes = generator.integers(500, 1500, size=40)
        hard = generator.uniform(0.8, 1.6, size=40) * num_bytes
        nats = hard * generator.normal(1.05, 0.05, size=40)
        _, low, high = paired_bootstrap(nats, num_bytes, hard, num_bytes, seed, draws=400)
        covered += low <= 1.05 <= high
    assert 85 <= covered <= 99


def test_bootstrap_repeats_with_its_seed_and_pairs_its_documents():
    generator = np.random.default_rng(2)
    num_bytes, nats = generator.integers(50, 90, size=9), generator.uniform(40, 90, size=9)
    other = nats * generator.uniform(0.9, 1.2, size=9)
    first = paired_bootstrap(nats, num_bytes, other, num_bytes, seed=3, draws=1500)
    assert first == paired_bootstrap(nats, num_bytes, other, num_bytes, seed=3, draws=1500)
    assert first[0] == pytest.approx(nats.sum() / other.sum())
    order = generator.permutation(9)
    _, low, high = paired_bootstrap(nats, num_bytes, other[order], num_bytes[order], seed=3, draws=1500)
    assert high - low > 1.3 * (first[2] - first[1])  # wrong pairs: the documents' own spread no longer cancels


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 2], [1, 2], [1], [1]), "same documents"),
        (([1], [1], [1], [1]), "cannot be resampled"),
        (([1, 2], [1, 0], [1, 2], [1, 2]), "positive"),
        (([1, math.nan], [1, 1], [1, 2], [1, 2]), "nats_a of document 1"),
    ],
)
def test_bootstrap_refuses_what_it_cannot_pair(columns, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(*columns)


# --- files ------------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [
        Row("OPT", data="stdlib", bits_per_byte=2.0, bytes=10, extra={"flops": 1e12, "ratio": None}),
        Row("SLLM | H1\nsecond line", protocol="full window", stop_nats=0.5),
    ]
    path = write(tmp_path / "new" / "folder", rows, corpus={"name": "stdlib", "sha256": "00"})
    assert read_metrics(path)["rows"] == rows
    assert read_metrics(path.parent)["rows"] == rows
    document = json.loads(path.read_text(encoding="utf-8"))
    assert list(document) == [
        "rows", "config", "git_revision", "versions", "hardware", "seed", "wall_seconds", "corpus"
    ]  # fmt: skip
    assert document["rows"][1]["bits_per_byte"] is None  # a column that does not apply is there, and null
    assert "extra" not in document["rows"][0]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]  # nothing half-written stays


def test_numbers_of_numpy_and_torch_are_written_as_numbers(tmp_path):
    numbers: dict = {"nats": np.float32(1.5), "bytes": np.int64(3), "tokens": torch.tensor(7)}
    row = Row("m", **numbers, extra={"list": np.arange(2)})
    stored = json.loads(write(tmp_path, [row], config={"path": tmp_path}).read_text(encoding="utf-8"))
    assert stored["rows"][0]["nats"] == 1.5
    assert stored["rows"][0]["tokens"] == 7
    assert stored["rows"][0]["list"] == [0, 1]


def test_a_figure_that_is_not_finite_is_refused_and_leaves_the_old_file(tmp_path):
    path = write(tmp_path, [Row("good", nats=1.0)])
    before = path.read_bytes()
    for row in (Row("bad", nats=math.nan), Row("bad", extra={"deep": {"x": [math.inf]}})):
        with pytest.raises(ValueError, match="'bad'"):
            write(tmp_path, [row])
    assert path.read_bytes() == before


def test_an_extra_column_may_not_hide_a_real_one(tmp_path):
    with pytest.raises(ValueError, match="bits_per_byte"):
        write(tmp_path, [Row("m", extra={"bits_per_byte": 1.0})])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": 3}', '{"rows": [{"nats": 1}]}', '{"rows": [7]}'])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.json is not a metrics file"):
        read_metrics(path)


def test_the_environment_is_told_without_places(tmp_path):
    document: dict = {"git": git_revision(), "versions": library_versions(), "hardware": hardware()}
    assert document["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in document["versions"]["torch"]
    assert document["hardware"]["cores"] >= 1
    assert document["hardware"]["cpu"]
    assert "/home" not in json.dumps(document)


# --- tables -----------------------------------------------------------------------------------------------------------


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


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_text_breaks_a_table(name, note):
    lines = markdown_table([Row(name, extra={"note": note})]).splitlines()
    assert len(lines) == 3
    unescaped = lines[2].replace("\\\\", "").replace("\\|", "")
    assert unescaped.count("|") == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(0.012345), "0.01235"),
        (number(12.345), "12.35"),
        (number(652.78), "652.8"),
        (number(12345.6), "12,346"),
        (number(12), "12"),
        (number(0.0), "0"),
        (number(1.23e-6), "1.23e-06"),
        (number(-3.605), "-3.605"),
        (short_count(950), "950"),
        (short_count(999_999), "1.00M"),
        (short_count(214_000_000), "214M"),
        (short_count(99_960_000), "100M"),
        (duration(4.24), "4.2 s"),
        (duration(59.99), "1 min 00 s"),
        (duration(185), "3 min 05 s"),
        (duration(7_790), "2 h 09 min"),
        (size(1_930_000), "1.93 MB"),
        (size(12), "12 B"),
    ],
)
def test_numbers_are_short_and_keep_their_digits(text, expected):
    assert text == expected
