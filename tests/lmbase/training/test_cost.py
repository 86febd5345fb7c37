"""The record of what a model cost and what it was made on."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmbase.training import cost as lineage
from lmbase.training.cost import Training, read_training, write_training


@pytest.fixture
def revision(monkeypatch):
    """Sets what the environment of a run is."""

    def use(name: str) -> None:
        monkeypatch.setattr(lineage, "environment", lambda: {"git_revision": name, "hardware": {"cores": 2}})

    use("a0")
    return use


def read(run: Path) -> Any:
    record = read_training(run)
    assert record is not None
    return record


def test_a_run_is_recorded_with_what_it_was_made_on_and_its_parents_keep_theirs(tmp_path, revision):
    write_training(tmp_path / "opt", 100, 1.26, 1e9, ["random:tiny"], seed=3)
    revision("b1")
    write_training(tmp_path / "sllm", 50, 2.0, 1e8, [str(tmp_path / "opt"), None], seed=4)
    record = read(tmp_path / "sllm")
    assert read_training(tmp_path / "sllm" / "model") == record
    assert record.made_on == {"git_revision": "b1", "hardware": {"cores": 2}, "seed": 4}
    assert record.parents[0].made_on == {"git_revision": "a0", "hardware": {"cores": 2}, "seed": 3}
    assert (record.total_tokens, record.total_seconds, record.total_flops) == (150, 3.3, 1.1e9)


def test_the_environment_is_that_of_metrics_files(tmp_path):
    write_training(tmp_path / "opt", 100, 1.0, 1e9, [], seed=0)
    content = json.loads((tmp_path / "opt" / "training.json").read_text())
    assert content["made_on"].keys() == {"git_revision", "versions", "hardware", "seed"}
    assert content["made_on"]["versions"]["torch"]


def test_a_finished_run_that_is_called_again_keeps_its_record(tmp_path, revision):
    write_training(tmp_path / "opt", 100, 1.26, 1e9, [], seed=3)
    revision("b1")
    write_training(tmp_path / "opt", 100, 1.26, 1e9, [], seed=3)
    assert read(tmp_path / "opt").made_on["git_revision"] == "a0"
    write_training(tmp_path / "opt", 200, 2.5, 2e9, [], seed=3)  # trained again
    assert read(tmp_path / "opt").made_on["git_revision"] == "b1"


def test_records_of_earlier_versions_are_read(tmp_path, revision):
    parent = {"name": "trunk", "tokens": 7, "seconds": 1.0, "flops": 2.0, "parents": []}
    old = {"name": "opt", "tokens": 5, "seconds": 1.0, "flops": 2.0, "parents": [parent]}
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "training.json").write_text(json.dumps(old))
    assert read_training(tmp_path / "opt") == Training("opt", 5, 1.0, 2.0, None, [Training("trunk", 7, 1.0, 2.0)])
    write_training(tmp_path / "sllm", 50, 2.0, 1e8, [str(tmp_path / "opt")])
    record = read(tmp_path / "sllm")
    assert record.total_tokens == 62
    assert record.parents[0].made_on is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "opt"}', '{"name": "opt", "parents": [], "colour": 1}'])
def test_a_damaged_record_is_named_and_written_anew_by_its_own_run(tmp_path, content, revision):
    path = tmp_path / "opt" / "training.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=r"training\.json is damaged"):
        read_training(tmp_path / "opt")
    write_training(tmp_path / "opt", 100, 1.0, 1e9, [])
    assert read(tmp_path / "opt").tokens == 100


def test_what_nothing_is_known_of_has_no_record(tmp_path, revision):
    """It would say that a model from elsewhere, changed by no training, had cost nothing."""
    (tmp_path / "elsewhere").mkdir()
    write_training(tmp_path / "merged", 0, 0.0, 0.0, [str(tmp_path / "elsewhere"), "random:small"])
    assert read_training(tmp_path / "merged") is None
    write_training(tmp_path / "opt", 100, 1.0, 1e9, [])
    write_training(tmp_path / "merged", 0, 0.0, 0.0, [str(tmp_path / "elsewhere"), str(tmp_path / "opt")])
    assert read(tmp_path / "merged").total_tokens == 100
