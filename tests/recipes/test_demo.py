"""`make demo`, with a few steps of everything."""

from lmbase.metrics import read_metrics
from sllm_recipes import cli


def test_the_demo_ends_with_a_table_and_a_report(tmp_path, capsys):
    command = ["demo", "--quick", "--device", "cpu", "--output_dir", str(tmp_path / "demo")]
    cli.main(command)
    printed = capsys.readouterr().out
    rows = read_metrics(tmp_path / "demo" / "evaluate")["rows"]
    assert {row.model for row in rows} == {"opt", "opt-tuned", "vae", "sllm"}
    for row in rows:
        assert f"| {row.model} |" in printed
        if row.protocol == "full window":
            assert row.bits_per_byte > 0
            assert row.tokens_per_second > 0
            assert row.kv_bytes_per_token > 0
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page

    cli.main(command)  # again: nothing is trained twice
    assert capsys.readouterr().err.count("finished run") == 4
