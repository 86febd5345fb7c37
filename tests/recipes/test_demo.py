"""`make demo`, with a few steps of everything."""

import dataclasses

import pytest

from lmbase.config import load_config
from lmbase.report.rows import read_metrics
from sllm_recipes import cli, demo


@pytest.mark.long
def test_the_demo_ends_with_a_table_and_a_report(tmp_path, capsys):
    words = ["the", "sea", "was", "quiet", "and", "nobody", "on", "deck", "had", "slept,", "it", "rang", "twice"]
    (tmp_path / "texts").mkdir()
    for number in range(12):  # its own text takes longer, and is read by tests of prepare
        text = "\n".join(
            " ".join(words[(number + step * k) % len(words)] for k in range(9)) + "." for step in range(1, 80)
        )
        (tmp_path / "texts" / f"{number}.txt").write_text(text.replace("the", str(number)))
    arguments = ["--data", str(tmp_path / "texts"), "--tokenizer", "bpe:300", "--output_dir", str(tmp_path / "demo")]
    cli.main(["demo", "--quick", "--device", "cpu", *arguments])
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


def test_the_demo_is_the_story_with_names_keys_and_tokens_of_its_own():
    keys = {field.name for field in dataclasses.fields(demo.Config)}
    assert {"data", "text_field", "tokenizer", "output_dir", "dtype", "device", "seed", "quick"} <= keys
    config = load_config(demo.Config, [])
    assert (config.data, config.output_dir, config.minutes) == ("stdlib", "runs/demo", None)
