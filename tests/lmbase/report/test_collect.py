"""What is gathered from a folder of runs."""

import json

import pytest

from lmbase.report.collect import collect, read_log
from lmbase.report.rows import Row, write_metrics


def test_runs_stand_in_the_order_of_the_work_and_checkpoints_are_passed_over(runs):
    report = collect(runs)
    assert [curve.name for curve in report.curves] == ["trunk", "sllm"]
    assert report.left_out == []
    assert report.curves[1].tokens == 2000
    assert report.curves[1].evaluations["bits_per_byte"] == [(10.0, 1.15), (20.0, 1.075)]


def test_a_single_run_can_be_reported_too(runs):
    assert [curve.name for curve in collect(runs / "trunk").curves] == ["trunk"]


def test_a_broken_file_is_named_and_the_rest_reported(runs):
    (runs / "trunk" / "log.jsonl").write_text(
        '{"step": 1, "token": 2}\nrubbish\n{"step": 3, "token": 2}', encoding="utf-8"
    )
    (runs / "samples.json").write_text('{"generations": [{"prompt": 3}]}', encoding="utf-8")
    (runs / "data" / "statistics.json").write_bytes(b"\xff\xfe")
    report = collect(runs)
    assert [curve.name for curve in report.curves] == ["sllm"]
    assert len(report.left_out) == 3
    for text, name in zip(report.left_out, ("log.jsonl", "statistics.json", "samples.json"), strict=True):
        assert name in text
    assert "line 2" in report.left_out[0]


def test_metrics_of_the_same_name_are_all_there_and_each_once(runs):
    more = [
        write_metrics(runs.parent / name, [Row(name)], config={}, seed=0, wall_seconds=1, corpus=None) for name in "ab"
    ]
    found = collect(runs, more_metrics=[*more, runs.parent / "a", runs / "evaluate" / "metrics.json"])
    assert [row.model for row in found.rows][-3:] == ["vae", "a", "b"]


@pytest.mark.parametrize(
    "content",
    [
        "null",
        "3",
        '{"generations": null}',
        '{"reconstructions": {"a": 1}}',
        '{"generations": [{"prompt": "a", "text": "b", "finish_reason": {}}]}',
    ],
)
def test_json_of_another_shape_is_left_out(runs, content):
    (runs / "samples.json").write_text(content, encoding="utf-8")
    for line in ('{"step": Infinity, "token": 3}\n', '{"step": 1, "eval": 3}\n'):
        (runs / "trunk" / "log.jsonl").write_text(line, encoding="utf-8")
        assert len(collect(runs).left_out) == 2


def test_a_resumed_log_counts_the_later_record_and_a_cut_last_line_is_passed_over(tmp_path):
    log = tmp_path / "log.jsonl"
    steps = [(1, 5.0), (2, 4.0), (3, 9.0), (3, 3.0), (4, 2.5)]
    lines = [json.dumps({"step": step, "tokens": step, "lr": 0.1, "token": loss}) for step, loss in steps]
    log.write_text("\n".join([*lines, '{"step": 5, "tok']), encoding="utf-8")
    curve = read_log(log, "run")
    assert curve.losses == {"token": [(1, 5.0), (2, 4.0), (3, 3.0), (4, 2.5)]}
    assert curve.steps == 4
