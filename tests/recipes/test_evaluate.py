"""`sllm evaluate` with every kind of model on a llama-like trunk; the baseline is the last plain model."""

import json
import signal

import pytest
from families import MAKERS, make_lm
from tiny import make_processor
from tokenizers_of_kinds import gpt2

from lmbase.processes import Stopped
from lmbase.report.rows import Row, read_metrics
from lmbase.report.story import find_story
from lmbase.report.write import write_report
from sllm.evaluation.likelihood import evaluate_likelihood
from sllm_recipes import cli


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        make("llama").save_pretrained(folder / name)
        make_processor().tokenizer.save_pretrained(folder / name)
    words = gpt2()
    make_lm("llama", vocab_size=len(words), bos_token_id=0, eos_token_id=0).save_pretrained(folder / "words")
    words.save_pretrained(folder / "words")
    (folder / "test.txt").write_text("One, two, three. Four and five! " * 4)
    keys = f"--data {folder}/test.txt --output_dir {folder}/out --rounds 1"

    def run(words: str, lengths: str = "--prompt_tokens 8 --new_tokens 8 --samples 1") -> list[Row]:
        given = {word for word in words.split() if word.startswith("--")}
        pairs = lengths.split()
        kept = [word for pair in zip(pairs[::2], pairs[1::2], strict=True) if pair[0] not in given for word in pair]
        cli.main(f"evaluate {keys} --device cpu {words.replace('{}', str(folder))} {' '.join(kept)}".split())
        return read_metrics(folder / "out")["rows"]

    run.folder = folder  # type: ignore[attr-defined]
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


def test_a_plain_model_has_rows_with_a_window(command):
    words = "--model {}/sentences {}/plain --samples 1"
    rows = {row.model: row for row in command(f"{words} --keep_window 4 8 --keep_ends punctuation")}
    assert list(rows) == ["sentences", "plain", "plain, window 4", "plain, window 8"]
    plain, four, eight = list(rows.values())[1:]
    assert four.extra["compared_with"] == eight.extra["compared_with"] == "plain"
    assert four.kv_bytes_per_token < eight.kv_bytes_per_token < plain.kv_bytes_per_token
    assert len({row.bits_per_byte for row in rows.values()}) == 4
    again = [row.model for row in command(f"{words} --keep_window 4 4 --keep_ends punctuation")]
    assert again.count("plain, window 4") == 1
    (*_, bare) = command(f"{words} --keep_window 4 --keep_ends none")
    assert bare.model == "plain, window 4, no ends"
    assert bare.kv_bytes_per_token < four.kv_bytes_per_token


def test_nothing_that_is_per_token_is_compared_between_tokenizers(command):
    ratios = {"ratio", "speed_ratio", "lookup_ratio"}
    rows = {(row.model, row.protocol): row for row in command("--model {}/plain {}/sentences {}/words")}
    assert list(rows) == [(name, "full window") for name in ("plain", "sentences", "words")]  # the window is of words
    for name in ("plain", "sentences"):
        assert rows[name, "full window"].extra["other_tokenizer"]
        assert ratios & {*rows[name, "full window"].extra} == {"ratio"}
    story = find_story([*rows.values()])
    assert story is not None
    assert story.speed().endswith("tokens per second (of its own tokenizer).")
    assert "cache" not in story.size()
    rows = {(row.model, row.protocol): row for row in command("--model {}/words {}/sentences {}/plain")}
    assert "other_tokenizer" not in rows["sentences", "equal context"].extra
    assert "speed_ratio" in rows["sentences", "full window"].extra
    assert "speed_ratio" not in rows["words", "full window"].extra


def test_a_report_of_it_shows_its_details(command, tmp_path):
    command("--model {}/plain {}/heads {}/sentences --speed false")
    folder = command.folder / "out"
    (page, *_) = write_report(folder, output_dir=tmp_path)
    source = page.read_text(encoding="utf-8")
    for heading in ("What a token costs", "Drafts accepted by position", "by rule of cutting"):
        assert heading in source
    assert "<p>sentences takes" in source  # the verdict is about the sentence-level model
    command("--model {}/plain --protocol paper --samples 0")
    assert json.loads((folder / "details.json").read_text()) == {}  # nothing that another evaluation found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model {}/sentences", "No plain token-level model among the models (sentences)"),
        ("--model {}/plain --baseline other", "No plain token-level model named 'other'"),
        ("--model {}/plain --keep_window 4", "plain' nothing says how its sentences are cut"),
        ("--model {}/plain --keep_window 65 --keep_ends line", "keep_window=65: of the 64 positions"),
        ("--model {}/plain --keep_window 4 --keep_ends lines", "rule='lines' is unknown"),
        ("--model {}/plain --protocol paper --speed true", "rows of --protocol paper have no speed"),
        ("--model {}/plain --keep_ends line", "give keep_window, too"),
        ("--model {}/plain {}/plain", "Two models have the same name"),
        ("--model {}/plain --prompt_tokens 90", "plain has 64 positions"),
        ("--model {}/plain --seed -1", "seed = -1"),  # before anything is scored
        ("--model {}/plain --output_dir {}/test.txt/out", "test.txt' is a file"),
    ],
)
def test_mistakes_end_with_a_message(command, words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(words)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def without_clock(rows):
    return [{k: v for k, v in row.to_dict().items() if "second" not in k and "ratio" not in k} for row in rows]


def test_E9_an_evaluation_that_was_stopped_goes_on_where_it_was(command, capsys, monkeypatch):
    words = "--model {}/plain {}/heads {}/sentences --samples 0 --speed false"
    whole = command(words)
    scored = []

    def stopping(loaded, data):
        scored.append(loaded.name)
        if len(scored) == 3:
            raise Stopped(signal.SIGTERM)
        return evaluate_likelihood(loaded, data)

    monkeypatch.setattr("sllm_recipes.evaluate.evaluate_likelihood", stopping)
    with pytest.raises(SystemExit) as stopped:
        command(words)
    assert stopped.value.code == 143
    assert "To continue:" in capsys.readouterr().err
    assert without_clock(command(words)) == without_clock(whole)
    assert scored == ["plain", "heads", "sentences", "sentences"]
    assert "plain: likelihood" in capsys.readouterr().out
    assert without_clock(command(words)) == without_clock(whole)  # anew: it had been finished
    assert len(scored) == 7


def test_E9_what_was_measured_is_there_when_the_rest_fails(command, monkeypatch):
    def broken(*args):
        raise ValueError("no clock")

    whole = command("--model {}/plain --samples 0 --speed false")
    monkeypatch.setattr("sllm_recipes.evaluate.compare_generation", broken)
    with pytest.raises(SystemExit):
        command("--model {}/plain --samples 0 --seed 1")
    assert without_clock(command("--model {}/plain --samples 0 --speed false")) == without_clock(whole)


def test_E9_default_lengths_fit_the_model(tmp_path, command, capsys):
    rows = command("--model {}/plain", lengths="")
    assert rows[0].tokens_per_second
    assert "plain has 64 positions: speed is measured with 32 prompt tokens and 32 new ones" in capsys.readouterr().out
