"""The recipe `report`: a page of a folder of runs, or one of its two other jobs."""

import pytest

from lmbase.config import load_config
from lmbase.report.rows import Row, write_metrics
from sllm_recipes.report import ReportConfig, main

ROW = Row("opt", data="d", protocol="full window", bits_per_byte=2.0, tokens_per_second=300.0)


@pytest.fixture
def metrics(tmp_path):
    return str(write_metrics(tmp_path / "run", [ROW], config={}, seed=0, wall_seconds=1, corpus=None))


def report(*words):
    return main(load_config(ReportConfig, words))


def test_a_folder_of_runs_becomes_a_page_and_its_figures(metrics, tmp_path):
    paths = report("--runs", str(tmp_path / "run"), "--output_dir", str(tmp_path / "out"), "--title", "A <title>")
    assert [path.name for path in paths] == ["report.html", "report.json"]
    assert '"title": "A <title>"' in paths[1].read_text(encoding="utf-8")


def test_a_figure_is_drawn_from_metrics_files_alone(metrics, tmp_path, capsys):
    (path,) = report("--figure", str(tmp_path / "figures" / "a.svg"), "--metrics", metrics)
    assert "opt" in path.read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert list((tmp_path / "figures").iterdir()) == [path]
    with pytest.raises(ValueError, match="--metrics"):
        report("--figure", str(path))


def test_tables_of_markdown_files_are_made_anew(metrics, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- table run/metrics.json columns=model -->\n<!-- end table -->\n", encoding="utf-8")
    assert report("--fill", str(page)) == (page,)
    assert "| opt |" in page.read_text(encoding="utf-8")
