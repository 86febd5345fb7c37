"""`sllm evaluate` with every kind of model on a llama-like trunk; the baseline is the last plain model."""

import pytest
from families import MAKERS
from tiny import make_processor

from lmbase.report.rows import Row, read_metrics
from sllm_recipes import cli


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        make("llama").save_pretrained(folder / name)
        make_processor().tokenizer.save_pretrained(folder / name)
    (folder / "test.txt").write_text("One, two, three. Four and five! " * 4)
    keys = f"--data {folder}/test.txt --output_dir {folder}/out --rounds 1 --prompt_tokens 8 --new_tokens 8 --samples 1"

    def run(words: str) -> list[Row]:
        cli.main(f"evaluate {keys} --device cpu {words.replace('{}', str(folder))}".split())
        return read_metrics(folder / "out")["rows"]

    return run


def test_a_table_of_all_kinds(command):
    rows = {(row.model, row.protocol): row for row in command("--model first={}/plain {}/plain {}/heads {}/sentences")}
    assert rows["sentences", "equal context"].extra["compared_with"] == "plain"
    for name in ("first", "plain", "heads", "sentences"):
        row = rows[name, "full window"]
        assert row.bits_per_byte > 0
        assert row.tokens_per_second > 0
    assert (
        rows["heads", "full window"].extra["plain_kv_bytes_per_token"] < rows["heads", "full window"].kv_bytes_per_token
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model {}/sentences", "No plain token-level model among the models (sentences)"),
        ("--model {}/plain --baseline other", "No plain token-level model named 'other'"),
        ("--model {}/plain {}/plain", "Two models have the same name"),
        ("--model {}/plain --prompt_tokens 90", "plain has 64 positions"),
    ],
)
def test_mistakes_end_with_a_message(command, words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(words)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
