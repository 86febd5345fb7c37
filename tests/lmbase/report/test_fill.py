"""Tables of Markdown files are made from metrics, never typed."""

import pytest

from lmbase.report.fill import fill_tables
from lmbase.report.rows import Row, write_metrics

ROWS = [Row("a", protocol="train 512", bits_per_byte=1.5), Row("b", protocol="generate 64+64", bits_per_byte=2.5)]


@pytest.fixture
def page(tmp_path):
    write_metrics(tmp_path / "run", ROWS, config={}, seed=0, wall_seconds=1, corpus=None)

    def fill(words: str) -> str:
        path = tmp_path / "README.md"
        path.write_text(f"before\n<!-- table {words} -->\nold\n<!-- end table -->\nafter\n")
        assert fill_tables(path) == 1
        return path.read_text()

    return fill


def test_a_table_replaces_what_stood_there(page):
    text = page("run/metrics.json columns=model,bits_per_byte")
    assert text.startswith("before\n<!-- table")
    assert text.endswith("<!-- end table -->\nafter\n")
    assert "| a | 1.5000 |" in text
    assert "| b | 2.5000 |" in text
    assert "old" not in text


def test_a_page_keeps_its_line_ends_and_one_without_tables_is_told_and_stays(tmp_path):
    write_metrics(tmp_path, ROWS, config={}, seed=0, wall_seconds=1, corpus=None)
    path = tmp_path / "README.md"
    path.write_bytes(b"before\r\n<!-- table metrics.json columns=model -->\r\nold\r\n<!-- end table -->\r\nafter\r\n")
    assert fill_tables(path) == 1
    written = path.read_bytes()
    assert b"| a |\r\n" in written
    assert written.endswith(b"after\r\n")
    assert written.count(b"\n") == written.count(b"\r\n")
    path.write_bytes(b"no table\r\n")
    with pytest.raises(ValueError, match="has no table to fill: write"):
        fill_tables(path)
    assert path.read_bytes() == b"no table\r\n"


def test_rows_of_one_protocol_only(page):
    text = page("run/metrics.json protocol=train columns=model")
    assert "| a |" in text
    assert "| b |" not in text
    text = page("run/metrics.json models=^[^a]$ columns=model")
    assert "| a |" not in text
    assert "| b |" in text


def test_a_table_without_rows_is_a_mistake(page):
    with pytest.raises(ValueError, match="no rows with protocol=tarin"):
        page("run/metrics.json protocol=tarin")


@pytest.mark.parametrize(
    ("words", "told"), [("model=a", "has model=...; known are columns"), ("models=(", "no regular expression")]
)
def test_an_option_that_is_none_is_told(page, words, told):
    with pytest.raises(ValueError, match=told):
        page(f"run/metrics.json columns=model {words}")
