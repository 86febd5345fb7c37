"""A folder of small runs for the tests of reports, with text in it that would break a careless page."""

import json
import os
from pathlib import Path

from lmbase.report.rows import Row, write_metrics

HOSTILE = '<script>alert("x")</script> & \x00 \ud800 |```'


def write_runs(folder: Path) -> Path:
    """Two training runs, an evaluation, prepared data and samples."""
    for order, (name, floor) in enumerate((("trunk", 2.1), ("sllm", 2.0))):
        records: list[dict] = []
        for step in range(1, 21):
            loss = floor + 3 / step
            records.append({"step": step, "tokens": step * 100, "seconds": step * 0.5, "lr": 1e-3, "token": loss})
            if step % 10 == 0:
                records.append({"step": step, "eval": {"bits_per_byte": loss / 2}})
        log = folder / name / "log.jsonl"
        log.parent.mkdir()
        log.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        os.utime(log, (1000 + order, 1000 + order))
    checkpoint = folder / "sllm" / "checkpoints" / "step_00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "log.jsonl").write_text("not a log", encoding="utf-8")

    scored: dict = dict(data="d", protocol="full window", bytes=900)
    rows = [
        Row("OPT", bits_per_byte=2.0312, tokens_per_second=270.0, **scored),
        Row("SLLM " + HOSTILE[:20], bits_per_byte=2.0478, tokens_per_second=545.0, **scored),
        Row("vae", data="d", reconstruction_exact_match=0.5),
    ]
    write_metrics(folder / "evaluate", rows, config={}, seed=0, wall_seconds=30, corpus="d")
    data = folder / "data"
    data.mkdir()
    split = {"documents": 3, "bytes": 900, "sentences": 6, "tokens": 60, "tokens_per_sentence": [0] * 9 + [2, 3, 0, 1]}
    split |= {"piecewise_to_whole_tokens": 1.004, "rules": {"line": 1, "punctuation": 2}}
    split |= {"skipped": {"lone surrogate": {"count": 4, "names": ["a"]}}}
    (data / "statistics.json").write_text(json.dumps({"name": "d", "splits": {"train": split}}), encoding="utf-8")
    samples = {
        "generations": [{"model": "SLLM", "prompt": "Once upon", "text": HOSTILE, "finish_reason": "stop"}],
        "reconstructions": [
            {"model": "vae", "text": "The cat sat.", "reconstruction": "The dog sat."},
            {"model": "vae", "text": "He left,", "reconstruction": "He left,"},
        ],
    }
    (folder / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    return folder
