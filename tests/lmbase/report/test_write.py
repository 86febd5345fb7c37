"""The report: what is gathered from a folder of runs, how differences are marked, and that the page is safe."""

import json
import math
import os
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbase.report.charts import Axis, Series, bar_chart, histogram, line_chart
from lmbase.report.collect import clean, collect, mark_differences, read_log, split_words
from lmbase.report.html_page import render_html
from lmbase.report.rows import Row, write_metrics
from lmbase.report.write import write_report

HOSTILE = '<script>alert("x")</script> & \x00 \ud800 |```'


class Page(HTMLParser):
    """Tags, attributes and visible text; complains about tags that do not close."""

    VOID = ("meta", "line", "br")

    def __init__(self, source):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def runs(tmp_path):
    """Two training runs, an evaluation, prepared data and samples."""
    for order, (name, floor) in enumerate((("trunk", 2.1), ("sllm", 2.0))):
        records: list[dict] = []
        for step in range(1, 21):
            loss = floor + 3 / step
            records.append({"step": step, "tokens": step * 100, "seconds": step * 0.5, "lr": 1e-3, "token": loss})
            if step % 10 == 0:
                records.append({"step": step, "eval": {"bits_per_byte": loss / 2}})
        log = tmp_path / name / "log.jsonl"
        log.parent.mkdir()
        log.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        os.utime(log, (1000 + order, 1000 + order))
    checkpoint = tmp_path / "sllm" / "checkpoints" / "step_00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "log.jsonl").write_text("not a log", encoding="utf-8")

    rows = [
        Row("OPT", data="d", protocol="full window", bits_per_byte=2.0312, bytes=900, tokens_per_second=270.0),
        Row("SLLM " + HOSTILE[:20], data="d", protocol="full window", bits_per_byte=2.0478, tokens_per_second=545.0),
        Row("vae", data="d", reconstruction_exact_match=0.5),
    ]
    write_metrics(tmp_path / "evaluate", rows, config={}, seed=0, wall_seconds=30, corpus="d")
    data = tmp_path / "data"
    data.mkdir()
    split = {"documents": 3, "bytes": 900, "sentences": 6, "tokens": 60, "tokens_per_sentence": [0] * 9 + [2, 3, 0, 1]}
    split |= {"piecewise_to_whole_tokens": 1.004, "rules": {"line": 1, "punctuation": 2}}
    split |= {"skipped": {"lone surrogate": {"count": 4, "names": ["a"]}}}
    (data / "statistics.json").write_text(json.dumps({"name": "d", "splits": {"train": split}}), encoding="utf-8")
    samples = {
        "generations": [{"model": "SLLM", "prompt": "Once upon", "text": HOSTILE, "finish_reason": "stop"}],
        "reconstructions": [
            {"model": "vae", "text": "The cat sat.", "reconstruction": "The dog sat."},
            {"model": "vae", "text": "He left,", "reconstruction": "He left,"},
        ],
    }
    (tmp_path / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    return tmp_path


def test_the_page_is_whole_and_fetches_nothing(runs):
    html_path, _ = write_report(runs)
    source = html_path.read_text(encoding="utf-8")
    page = Page(source)
    assert "script" not in page.tags
    assert page.addresses == []
    assert "url(" not in source
    assert "@import" not in source
    for svg in source.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + svg.split("</svg>")[0] + "</svg>")


def test_everything_that_was_found_is_in_both_reports(runs):
    html_path, markdown_path = write_report(runs, title="A title")
    text, markdown = Page(html_path.read_text(encoding="utf-8")).text, markdown_path.read_text(encoding="utf-8")
    figures = ["2.0312", "2.0478", "50.0%", "10.0 s", "50.0 s", "4.00k", "1.004"]
    for needle in ("A title", "trunk", "sllm", "Once upon", "line 1, punctuation 2", "4 lone surrogate", *figures):
        assert needle in text, needle
        assert needle in markdown, needle
    assert "1 of 2 shown came back exactly" in text
    assert "1 of 2 are exact" in markdown
    assert "median 10" in text
    assert "270.0" in text
    assert "- The cat sat.\n+ The dog sat.\n  He left,\n" in markdown
    assert text.count("ended by stop") == 1


def test_hostile_text_is_shown_and_not_run(runs):
    html_path, markdown_path = write_report(runs)
    assert '<script>alert("x")</script> & ␀ \ufffd |```' in Page(html_path.read_text(encoding="utf-8")).text
    assert "\n````\nOnce upon" in markdown_path.read_text(encoding="utf-8")  # a fence longer than the text's own


def test_runs_stand_in_the_order_of_the_work_and_checkpoints_are_passed_over(runs):
    report = collect(runs)
    assert [curve.name for curve in report.curves] == ["trunk", "sllm"]
    assert report.left_out == []
    assert report.curves[1].tokens == 2000
    assert report.curves[1].evaluations["bits_per_byte"] == [(10.0, 1.15), (20.0, 1.075)]


def test_a_single_run_can_be_reported_too(runs):
    assert [curve.name for curve in collect(runs / "trunk").curves] == ["trunk"]


def test_published_rows_join_in_a_table_of_their_own(runs):
    more = write_metrics(
        runs / "elsewhere", [Row("paper's", protocol="published", tokens_per_second=9e3, extra={"ppl": 31.68})],
        config=None, seed=None, wall_seconds=0, corpus=None,
    )  # fmt: skip
    target = runs / "out"
    _, markdown_path = write_report(runs / "evaluate", more_metrics=[more], output_dir=target)
    side_by_side, others = markdown_path.read_text(encoding="utf-8").split("## By other rules, not comparable")
    assert "paper's" not in side_by_side
    assert "31.68" in others
    assert "**545.0**" in side_by_side


def test_a_broken_file_is_named_and_the_rest_reported(runs):
    (runs / "trunk" / "log.jsonl").write_text(
        '{"step": 1, "token": 2}\nrubbish\n{"step": 3, "token": 2}', encoding="utf-8"
    )
    (runs / "samples.json").write_text('{"generations": [{"prompt": 3}]}', encoding="utf-8")
    (runs / "data" / "statistics.json").write_bytes(b"\xff\xfe")
    report = collect(runs)
    assert [curve.name for curve in report.curves] == ["sllm"]
    assert len(report.left_out) == 3
    for text, name in zip(report.left_out, ("log.jsonl", "statistics.json", "samples.json"), strict=True):
        assert name in text
    assert "line 2" in report.left_out[0]
    assert "line 2" in Page(render_html(report)).text


@pytest.mark.parametrize(
    "content", ["null", "3", '{"generations": null}', '{"reconstructions": {"a": 1}}', '{"generations": 3}']
)
def test_json_of_another_shape_is_left_out(runs, content):
    (runs / "samples.json").write_text(content, encoding="utf-8")
    (runs / "trunk" / "log.jsonl").write_text('{"step": 1, "eval": 3}\n', encoding="utf-8")
    assert len(collect(runs).left_out) == 2


@pytest.mark.parametrize("make", [lambda path: path / "absent", lambda path: path])
def test_nothing_to_report_is_a_clear_error(tmp_path, make):
    with pytest.raises(ValueError, match=r"output_dir"):
        write_report(make(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_log_counts_the_later_record_and_a_cut_last_line_is_passed_over(tmp_path):
    log = tmp_path / "log.jsonl"
    steps = [(1, 5.0), (2, 4.0), (3, 9.0), (3, 3.0), (4, 2.5)]
    lines = [json.dumps({"step": step, "tokens": step, "lr": 0.1, "token": loss}) for step, loss in steps]
    log.write_text("\n".join([*lines, '{"step": 5, "tok']), encoding="utf-8")
    curve = read_log(log, "run")
    assert curve.losses == {"token": [(1, 5.0), (2, 4.0), (3, 3.0), (4, 2.5)]}
    assert curve.steps == 4


# --- differences ------------------------------------------------------------------------------------------------------


def test_differences_are_marked_word_by_word():
    before, after = mark_differences("The old cat sat.", "The cat sat down.")
    assert before == [("The", False), (" old", True), (" cat sat", False), (".", False)]
    assert after == [("The", False), (" cat sat", False), (" down", True), (".", False)]
    assert mark_differences("它是字符串", "它是整数")[0][-1] == ("字符串", True)


@given(st.text(max_size=60), st.text(max_size=60))
def test_marking_loses_no_character_and_equal_texts_have_no_marks(text, other):
    assert "".join(split_words(text)) == text
    before, after = mark_differences(text, other)
    assert "".join(part for part, _ in before) == text
    assert "".join(part for part, _ in after) == other
    assert any(marked for _, marked in before + after) == (text != other)


@given(st.text(alphabet=st.characters(codec=None, categories=None), max_size=40))
def test_clean_text_can_be_written_in_utf8(text):
    shown = clean(text)
    shown.encode("utf-8")
    assert len(shown) == len(text)
    assert not any(ord(character) < 32 and character not in "\n\t" for character in shown)


# --- charts -----------------------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))  # narrower, and rounding of the values themselves shows
def test_an_axis_holds_its_values_and_has_a_few_ticks(low, span):
    axis = Axis.over(low, low + span, 0, 100)
    assert -1e-3 <= axis(low) <= axis(low + span) <= 100 + 1e-3
    assert 2 <= len(axis.ticks) <= 12


def test_a_wide_range_gets_a_logarithmic_axis_and_a_narrow_one_does_not():
    wide = line_chart([Series("a", [(1, 0.01), (2, 8.0)])], "step", "loss")
    assert "log scale" in wide
    assert "log scale" not in line_chart([Series("a", [(1, 2.0), (2, 8.0)])], "step", "loss")
    assert "log scale" not in line_chart([Series("a", [(1, 0.0), (2, 8.0)])], "step", "loss")


def test_a_value_that_is_not_finite_breaks_the_line_and_an_empty_chart_is_no_chart():
    chart = line_chart([Series("a", [(1, 3.0), (2, 2.0), (3, math.nan), (4, 1.5), (5, 1.2)])], "step", "loss")
    assert chart.count("<polyline") == 2
    assert "nan" not in chart
    assert line_chart([Series("a", [(1, math.nan)])], "step", "loss") == ""
    assert histogram([(1, 0)], "tokens", "sentences") == ""
    assert bar_chart([]) == ""


def test_long_runs_are_thinned_to_means():
    chart = line_chart([Series("a", [(x, float(x % 2)) for x in range(1, 32_001)])], "step", "loss")
    assert chart.count("<circle") == 160
    assert chart.count("0.5000 at") == 160


def test_the_tail_of_a_histogram_is_gathered_and_its_median_marked():
    chart = histogram(
        [(1, 10.0), (2, 980.0), (3, 9.0), *((float(x), 0.02) for x in range(4, 54))], "tokens", "sentences"
    )
    assert "median 2<" in chart
    assert "3 or more: 10 (1.0%)" in chart
