"""The report of a folder of runs: everything that was found is in it, and the page is safe."""

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from lmbase.report.rows import Row, write_metrics
from lmbase.report.write import write_report


class Page(HTMLParser):
    """Tags, attributes and visible text; complains about tags that do not close."""

    VOID = ("meta", "br")

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
        self.addresses += [
            value for name, value in attributes if name in ("src", "href", "action", "srcset", "xlink:href")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_fetches_nothing(runs):
    html_path, *_ = write_report(runs)
    source = html_path.read_text(encoding="utf-8")
    page = Page(source)
    assert "script" not in page.tags
    assert all(address.startswith("#") for address in page.addresses)  # marks in charts, drawn once and used often
    assert "default-src 'none'; style-src 'unsafe-inline'" in source
    assert "url(" not in source
    assert "@import" not in source
    for svg in source.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + svg.split("</svg>")[0] + "</svg>")


def test_everything_that_was_found_is_on_the_page_and_in_its_figures(runs):
    html_path, json_path = write_report(runs, title="A title")
    text, found = Page(html_path.read_text(encoding="utf-8")).text, json.loads(json_path.read_text(encoding="utf-8"))
    figures = ["2.0312", "2.0478", "50.0%", "10.0 s", "50.0 s", "4.00k", "1.004", "270.0"]
    for needle in ("A title", "trunk", "sllm", "Once upon", "line 1, punctuation 2", "4 lone surrogate", *figures):
        assert needle in text, needle
    assert "1 of 2 shown came back exactly" in text
    assert "median 10" in text
    assert text.count("ended by stop") == 2  # above, and among all texts
    assert found["title"] == "A title"
    assert found["verdict"][0].startswith("OPT takes 2.0312 bits per byte")
    assert [row["bits_per_byte"] for row in found["metrics"]["evaluate"]["rows"]] == [2.0312, 2.0478, None]
    assert [curve["name"] for curve in found["curves"]] == ["trunk", "sllm"]
    assert len(found["reconstructions"]) == 2


def test_hostile_text_is_shown_and_not_run(runs):
    html_path, json_path = write_report(runs)
    assert '<script>alert("x")</script> & ␀ \ufffd |```' in Page(html_path.read_text(encoding="utf-8")).text
    assert json.loads(json_path.read_bytes())["generations"][0]["text"].endswith("& \x00 \ud800 |```")


def test_published_rows_join_in_a_table_of_their_own(runs):
    more = write_metrics(
        runs / "elsewhere", [Row("paper's", protocol="published", tokens_per_second=9e3, extra={"ppl": 31.68})],
        config=None, seed=None, wall_seconds=0, corpus=None,
    )  # fmt: skip
    path, _ = write_report(runs / "evaluate", more_metrics=[more], output_dir=runs / "out")
    before, after = path.read_text(encoding="utf-8").split("<h2>By other rules, not comparable</h2>")
    assert "paper&#39;s" not in before
    assert "31.68" in after
    assert ' best">545.0<' in before


@pytest.mark.parametrize("make", [lambda path: path / "absent", lambda path: path])
def test_nothing_to_report_is_a_clear_error(tmp_path, make):
    with pytest.raises(ValueError, match=r"output_dir"):
        write_report(make(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_sections_without_content_are_left_out(runs):
    source = write_report(runs / "trunk")[0].read_text(encoding="utf-8")
    assert "Training" in source
    absent = ("All figures", "Data:", "What they write", "Reconstr", "Left out", "The figures", "<p></p>")
    assert not [name for name in absent if name in source]


def test_samples_need_no_model_and_no_reason(runs):
    (runs / "samples.json").write_text('{"generations": [{"prompt": "One", "text": " two"}]}', encoding="utf-8")
    assert "two" in write_report(runs)[0].read_text(encoding="utf-8")


def test_a_broken_file_is_named(runs):
    (runs / "trunk" / "log.jsonl").write_text(
        '{"step": 1, "token": 2}\nrubbish\n{"step": 3, "token": 2}', encoding="utf-8"
    )
    (runs / "samples.json").write_text('{"generations": [{"prompt": 3}]}', encoding="utf-8")
    (runs / "data" / "statistics.json").write_bytes(b"\xff\xfe")
    html_path, json_path = write_report(runs)
    for text in (Page(html_path.read_text(encoding="utf-8")).text, json_path.read_text(encoding="utf-8")):
        assert all(name in text for name in ("log.jsonl", "line 2", "statistics.json", "samples.json"))


def test_the_page_can_be_read_by_ear(runs):
    (runs / "evaluate" / "details.json").write_text(json.dumps({"cost": {"opt": {"trunk": 2.0}}}), encoding="utf-8")
    source = write_report(runs)[0].read_text(encoding="utf-8")
    levels = [int(level) for level in re.findall(r"<h([1-6])", source)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert source.count("<table") == len(re.findall(r"<caption>[^<]+</caption>", source)) > 3
    assert source.count("<svg") == len(re.findall(r'<svg [^>]*role="img" aria-label="[^"]+"', source)) > 2
    assert source.count("<details") == source.count("<summary") > 5
    assert 'scope="row"' in source


def test_names_and_texts_in_any_script_stay_in_their_place(tmp_path):
    name, text = "\u0646\u0645\u0648\u0630\u062c <b>&'", "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd <i>"
    ratio = {"compared_with": "opt", "ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1}
    rows = [Row("opt", bits_per_byte=2.0), Row(name, bits_per_byte=2.0, stop_nats=1.0, extra=ratio)]
    write_metrics(tmp_path, rows, config={}, seed=0, wall_seconds=1, corpus=None)
    samples = [{"model": name, "prompt": text, "text": text * 2}, {"model": "opt", "prompt": text, "text": "  \n"}]
    (tmp_path / "samples.json").write_text(json.dumps({"generations": samples}), encoding="utf-8")
    html_path, json_path = write_report(tmp_path)
    source = html_path.read_text(encoding="utf-8")
    page = Page(source)
    assert f"{name} is level with opt: 1.000 times" in page.text
    assert not {"b>", "i"} & set(page.tags)
    assert source.count('dir="auto"') >= 6
    assert "(white space)" in page.text
    assert name in json_path.read_text(encoding="utf-8").encode().decode("unicode_escape")


def test_a_folded_part_is_open_on_paper_and_paper_is_light(runs):
    source = write_report(runs)[0].read_text(encoding="utf-8")
    dark, printed = source.index("prefers-color-scheme: dark"), source.index("@media print")
    assert source[dark - 20 : dark].endswith("@media screen and (")
    assert "::details-content" in source[printed:]


def test_figures_that_are_no_numbers_stop_no_report(tmp_path):
    rows = [{"model": name, "bits_per_byte": bits, "tokens_per_second": 9.0} for name, bits in (("a", 2.0), ("b", 1.5))]
    rows.append(
        {"model": "diverged", "bits_per_byte": float("nan"), "tokens_per_second": float("inf"), "ratio": float("nan")}
    )
    (tmp_path / "metrics.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    html_path, json_path = write_report(tmp_path)
    page = Page(html_path.read_text(encoding="utf-8"))
    assert "a takes 2.0000 bits per byte" in page.text
    assert "Quality against speed" in page.text
    assert json.loads(json_path.read_bytes())["metrics"][tmp_path.name]["rows"][2]["bits_per_byte"] is None
