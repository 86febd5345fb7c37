"""An evaluation that was interrupted goes on where it was, with results of the same models and text only."""

import pytest

from lmbase.report.rows import Row
from sllm.evaluation.progress import FILE_NAME, Measured, identity


def never():
    pytest.fail("it was measured a second time")


def test_what_was_measured_is_taken_up_again_and_nothing_of_another_evaluation(tmp_path):
    first = Measured(tmp_path, {"model": "a", "lengths": (1, 2)})
    row = first.row("speed", lambda: Row("a", bits_per_byte=1.5))
    again = Measured(tmp_path, {"model": "a", "lengths": (1, 2)})
    assert again.results
    assert again.row("speed", never) == row
    other = Measured(tmp_path, {"model": "b", "lengths": (1, 2)})
    assert not other.results
    assert other.once("speed", lambda: 3) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 10**5, '{"of": {"model": "a"}, "results": 7}'])
def test_damaged_results_are_measured_anew(tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    assert Measured(tmp_path, {"model": "a"}).once("speed", lambda: 3) == 3


def test_nothing_is_left_when_it_is_finished(tmp_path):
    measured = Measured(tmp_path, {})
    measured.once("speed", lambda: 3)
    measured.finished()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_changed_is_another_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = identity(str(tmp_path))
    assert identity(str(tmp_path)) == before
    (tmp_path / "config.json").write_text("{ }")
    assert identity(str(tmp_path)) != before
