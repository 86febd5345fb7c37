"""What standard output does not take is told, and no command that lost a text ends as if all were well."""

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")  # takes nothing, as a full disk: Linux has it
BODIES = {
    "a text that waits": "print('short')",
    "a text that waits for nothing": "print('long' * 10000)",
    "a line that is wanted at once": "print('now', flush=True); open('went-on', 'w')",
    "a help": "print('short'); raise SystemExit(0)",
}


def ended(body: str, folder: Path, output: str, more: str = "") -> tuple[int, str]:
    """Status and errors of a process that does `body` where standard output is what a shell makes of `output`."""
    code = f"from lmbase.standard_output import output_taken\nwith output_taken():\n    {body}"
    command = f'exec "$0" -c "$1" {output} {more}'
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run(["sh", "-c", command, sys.executable, code], cwd=folder, env=path, stderr=subprocess.PIPE)
    return found.returncode, found.stderr.decode()


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_text_that_is_lost_is_told(tmp_path, body):
    status, errors = ended(body, tmp_path, "> /dev/full")
    assert status == 2
    assert errors.startswith("error: standard output: No space left on device: what is shown there is not all")
    assert errors.count("\n") == 1  # no traceback, and nothing that Python says as it ends
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_the_status_tells_it_where_nothing_can_be_said(tmp_path):
    assert ended("print('short')", tmp_path, "> /dev/full", "2>&1")[0] != 0


def test_without_a_standard_output_nothing_begins(tmp_path):
    status, errors = ended("open('begun', 'w')", tmp_path, ">&-")
    assert (status, errors.count("\n")) == (2, 1)
    assert "error: standard output: it is closed" in errors
    assert not any(tmp_path.iterdir())


def test_without_a_place_for_errors_work_goes_on(tmp_path):
    body = "import sys; print('told', file=sys.stderr); sys.stderr.isatty(); open('done', 'w').write('all')"
    assert ended(body, tmp_path, "> shown", "2>&-") == (0, "")
    assert (tmp_path / "done").read_text() == "all"
    assert (tmp_path / "shown").read_text() == ""


@pytest.mark.parametrize("arguments", ["28, 'No space', 'elsewhere'", "111, 'Refused'", "'nobody answers'"])
def test_an_error_of_something_else_stays_what_it_is_and_nothing_more_is_shown(tmp_path, arguments):
    status, errors = ended(f"print('shown'); raise OSError({arguments})", tmp_path, "> shown")
    assert status == 1
    assert errors.startswith("Traceback")
    assert (tmp_path / "shown").read_text() == "shown\n"
