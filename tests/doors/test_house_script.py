"""`make house`: what it prints."""

import subprocess
import sys
from pathlib import Path


def test_the_script_prints_one_table():
    script = Path(__file__).parents[1] / "house.py"
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    first, rule, *rest = printed.splitlines()
    assert (first, rule) == ("| measure | value |", "|---|---|")
    assert len(rest) > 20
    assert all(line.count(" | ") == 1 for line in rest)
