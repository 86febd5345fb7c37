"""The long tier counts what it tries, and its table says so."""

import soak
import soak_table
from soak_table import Instrument, write_table

from lmbase.report.rows import read_metrics


def test_tries_are_those_reported_or_the_largest_of_the_counts(monkeypatch):
    soak.take_count()
    assert soak.times(3, 200) == (200 if soak.SOAK else 3)
    monkeypatch.setattr(soak, "SOAK", True)
    assert [soak.times(3, 20), soak.times(1, 4)] == [20, 4]
    assert soak.take_count() in (20, 200)
    soak.times(3, 20)
    soak.tried()
    soak.tried(4)
    assert (soak.take_count(), soak.take_count()) == (5, 0)


def test_a_table_holds_what_was_tried_and_keeps_rows_of_earlier_pieces(tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").touch()
    for name, found in (
        ("test_a.py::test_kills", Instrument(tries=200, found=1, by_chance=True)),
        ("test_a.py::test_grid", Instrument(tries=32, num_tests=32)),
        ("test_a.py::test_plain", Instrument(tries=1, num_tests=1)),
        ("test_gone.py::test_kills", Instrument(tries=200, by_chance=True)),
    ):
        monkeypatch.setattr(soak_table, "instruments", {f"tests/{name}": found})
        write_table(tmp_path / "table", tmp_path)
    rows = read_metrics(tmp_path / "table")["rows"]
    assert [(row.extra["instrument"], row.extra["tries"], row.extra["found"]) for row in rows] == [
        ("grid", 32, 0),
        ("kills", 200, 1),
    ]
