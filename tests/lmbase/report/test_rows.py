"""Rows and metrics.json: what is written comes back, and what is not a figure is refused."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lmbase.report.rows import Row, check_place, read_metrics, write_metrics
from sllm_recipes.evaluate import Config as EvaluateConfig


def write(folder, rows, **changes):
    settings: dict = {"config": {"seed": 0}, "seed": 0, "wall_seconds": 1.5, "corpus": "stdlib-3.11"} | changes
    return write_metrics(folder, rows, **settings)


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [
        Row("OPT", data="stdlib", bits_per_byte=2.0, bytes=10, extra={"flops": 1e12, "ratio": None}),
        Row("SLLM | H1\nsecond line", protocol="full window", stop_nats=0.5),
    ]
    path = write(tmp_path / "new" / "folder", rows, corpus={"name": "stdlib", "sha256": "00"})
    assert read_metrics(path)["rows"] == rows
    assert read_metrics(path.parent)["rows"] == rows
    document = json.loads(path.read_text(encoding="utf-8"))
    assert list(document) == [
        "rows", "config", "git_revision", "versions", "hardware", "seed", "wall_seconds", "corpus", "checksum"
    ]  # fmt: skip
    assert document["rows"][1]["bits_per_byte"] is None  # a column that does not apply is there, and null
    assert "extra" not in document["rows"][0]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]  # nothing half-written stays


def test_numbers_of_numpy_and_torch_are_written_as_numbers(tmp_path):
    numbers: dict = {"nats": np.float32(1.5), "bytes": np.int64(3), "tokens": torch.tensor(7)}
    row = Row("m", **numbers, extra={"list": np.arange(2)})
    stored = json.loads(write(tmp_path, [row], config={"path": tmp_path}).read_text(encoding="utf-8"))
    assert stored["rows"][0]["nats"] == 1.5
    assert stored["rows"][0]["tokens"] == 7
    assert stored["rows"][0]["list"] == [0, 1]


def test_a_figure_that_is_not_finite_is_refused_and_leaves_the_old_file(tmp_path):
    path = write(tmp_path, [Row("good", nats=1.0)])
    before = path.read_bytes()
    for row in (Row("bad", nats=math.nan), Row("bad", extra={"deep": {"x": [math.inf]}})):
        with pytest.raises(ValueError, match="'bad'"):
            write(tmp_path, [row])
    assert path.read_bytes() == before


def test_an_extra_column_may_not_hide_a_real_one(tmp_path):
    with pytest.raises(ValueError, match="bits_per_byte"):
        write(tmp_path, [Row("m", extra={"bits_per_byte": 1.0})])


BROKEN = ["", "{", "[]", '{"rows": 3}', '{"rows": [{"nats": 1}]}', '{"rows": [7]}']
BROKEN += [f'{{"rows": [{{"model": "m", {wrong}}}]}}' for wrong in ('"nats": "1.5"', '"bytes": true', '"data": [1]')]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.json is not a metrics file"):
        read_metrics(path)


def test_E11_figures_that_were_changed_in_the_file_are_refused(tmp_path):
    path = write_metrics(
        tmp_path, [Row("a", bits_per_byte=1.25, extra={"ä": 3})], config={}, seed=0, wall_seconds=1, corpus="c"
    )
    assert read_metrics(path)["rows"][0].bits_per_byte == 1.25
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("1.25", "1.15"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.json .*not those that were written"):
        read_metrics(path)
    document = json.loads(text)
    del document["checksum"]  # of an earlier version
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_metrics(path)["rows"][0].bits_per_byte == 1.25


@dataclass
class Keys:
    output_dir: str
    model: str = ""


def test_a_recipe_overwrites_its_own_figures_only(tmp_path):
    check_place(Keys(str(tmp_path / "new")))
    write(tmp_path, [Row("a")], config=Keys(str(tmp_path)))
    check_place(Keys(str(tmp_path), "another"))
    with pytest.raises(ValueError, match="is what is read here"):
        check_place(Keys(str(tmp_path)), [str(tmp_path / "metrics.json")])

    evaluation = EvaluateConfig(["m"], output_dir=str(tmp_path))
    with pytest.raises(ValueError, match="holds the figures of test-rows, not of evaluate"):
        check_place(evaluation)
    for config in ({}, {"output_dir": "", "questions": 3}):  # of an earlier version, which names no recipe
        write(tmp_path, [Row("a")], config=config)
        with pytest.raises(ValueError, match="holds the figures of another recipe, not of evaluate"):
            check_place(evaluation)
    write(tmp_path, [Row("a")], config={"model": [], "output_dir": ""})
    check_place(evaluation)
    (tmp_path / "metrics.json").write_text("{")
    check_place(evaluation)  # nothing is lost


def test_a_missing_file_is_not_told_to_be_damaged(tmp_path):
    for path in (tmp_path, tmp_path / "nothere.json"):
        with pytest.raises(ValueError, match=r"json: no such file; give the metrics.json, or the folder of it"):
            read_metrics(path)
