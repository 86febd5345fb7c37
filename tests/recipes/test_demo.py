"""`make demo`, with a few steps of everything."""

import shlex

from lmbase.config import load_config
from lmbase.report.rows import read_metrics
from sllm_recipes import cli, demo


def test_the_demo_ends_with_a_table_and_a_report(tmp_path, capsys):
    command = ["demo", "--quick", "--device", "cpu", "--output_dir", str(tmp_path / "demo")]
    cli.main(command)
    printed = capsys.readouterr().out
    rows = read_metrics(tmp_path / "demo" / "evaluate")["rows"]
    assert {row.model for row in rows} == {"opt", "opt-tuned", "vae", "sllm", "sllm-drafting", "mtp"}
    for row in rows:
        assert f"| {row.model} |" in printed
        if row.protocol == "full window":
            assert row.bits_per_byte > 0
            assert row.tokens_per_second > 0
            assert row.kv_bytes_per_token > 0
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page

    cli.main(command)  # again: nothing is trained twice
    assert capsys.readouterr().err.count("finished run") == 6


def test_the_demo_takes_another_text():
    argv = ["--data", "my text/*.txt", "more.jsonl", "--text_field", "body", "--tokenizer", "bytes"]
    stages = demo.stages(load_config(demo.Config, [*argv, "--output_dir", "my runs"]))
    assert "Python" not in stages[0][0]
    words = shlex.split(stages[0][1])
    assert words[:4] == ["prepare", "--data", "my text/*.txt", "more.jsonl"]
    assert words[words.index("--text_field") + 1] == "body"
    assert words[words.index("--tokenizer") + 1] == "bytes"
    assert all("my runs" in " ".join(shlex.split(command)) for _, command in stages)
    assert all(word.startswith(("my runs", "opt", "vae", "sllm", "mtp")) for word in shlex.split(stages[-2][1])[2:8])
