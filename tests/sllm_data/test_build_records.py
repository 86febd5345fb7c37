"""Tables and logs to try rules on: the same for the same seed, of about the size that is asked for."""

import csv
import runpy

from rooms import ROOT

main = runpy.run_path(str(ROOT / "data" / "build_records.py"))["main"]


def test_files_are_those_of_the_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        main([str(tmp_path / name), "--size", "5000", "--seed", str(seed)])
    for name in ("csv.txt", "logs.txt"):
        text = (tmp_path / "a" / name).read_text()
        assert 5000 <= len(text) < 5200
        assert text == (tmp_path / "b" / name).read_text() != (tmp_path / "c" / name).read_text()
    header, *rows = csv.reader((tmp_path / "a" / "csv.txt").open())
    assert all(abs(float(row[5]) * int(row[6]) - float(row[7])) < 0.01 for row in rows)
    assert all(len(row) == len(header) for row in rows)
