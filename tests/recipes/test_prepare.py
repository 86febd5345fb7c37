"""The recipe `prepare`: from a command line to data that loads, and on again after an interruption."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from small_runs import refused, sllm

from lmbase.config import run
from lmbase.text.tokenizers import load_tokenizer, vocabulary_size
from sllm_data import corpora
from sllm_data import prepare as preparing
from sllm_data.corpora import open_corpus
from sllm_data.open_data import with_rule
from sllm_data.prepared import PreparedData
from sllm_recipes import prepare as recipe


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for split, count in {"train": 30, "valid": 2, "test": 2}.items():
        lines = [json.dumps({"body": f"The {split} text {i} begins, and it ends. " * 5}) for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def command(texts: Path, output_dir: Path, *more: str) -> list[str]:
    words = ["--data", str(texts), "--text-field", "body", "--output_dir", str(output_dir), "--num_workers=1"]
    return [*words, *(() if "--tokenizer" in more else ("--tokenizer", "bpe:300")), *more]


def test_files_become_prepared_data(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (texts / "broken.txt").write_bytes(b"\xff")
    run(recipe.Config, recipe.main, command(texts, tmp_path / "out", "--max_sentence_tokens", "16"))
    data = PreparedData.load(tmp_path / "out")
    assert data.splits == ("train", "valid", "test")
    assert data.split("train").num_documents == 30
    assert (data.processor.rule, data.processor.max_sentence_tokens) == ("auto", 16)
    assert vocabulary_size(data.processor.tokenizer) <= 300
    output = capsys.readouterr().out
    assert "train: 30 documents" in output
    assert "left out 1 x invalid UTF-8: broken.txt" in output


@pytest.mark.parametrize(("cap", "told"), [("8", True), ("64", False)])
def test_C6_sentences_at_the_cap_are_counted_and_a_remedy_named(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cap: str, told: bool
) -> None:
    words = command(texts, tmp_path / "out", "--tokenizer", "bytes", "--max_sentence_tokens", cap)
    run(recipe.Config, recipe.main, words)
    counts = PreparedData.load(tmp_path / "out").statistics["train"]
    share = sum(counts["tokens_per_sentence"][int(cap) :]) / counts["sentences"]
    assert (share > 0.5) is told
    output = capsys.readouterr().out
    assert f"sentences ({share:.1%} at the cap of {cap})" in output
    assert ("give more --max_sentence_tokens" in output) is told


def test_the_tokenizer_is_learned_from_the_train_split_only(texts: Path, tmp_path: Path) -> None:
    run(recipe.Config, recipe.main, command(texts, tmp_path / "a"))
    for split in ("valid", "test"):
        (texts / f"{split}.jsonl").write_text(json.dumps({"body": "zzyzx qwerty zzyzx qwerty " * 500}))
    run(recipe.Config, recipe.main, command(texts, tmp_path / "b"))
    assert (
        PreparedData.load(tmp_path / "a").processor.fingerprint
        == PreparedData.load(tmp_path / "b").processor.fingerprint
    )


def test_punkt_is_learned_for_the_rule_that_uses_it(texts: Path, tmp_path: Path) -> None:
    run(recipe.Config, recipe.main, command(texts, tmp_path / "out", "--rule", "sentence"))
    processor = PreparedData.load(tmp_path / "out").processor
    assert processor.punkt is not None
    assert "train" in processor.punkt["ortho_context"]
    assert "valid" not in processor.punkt["ortho_context"]


def test_quick_on_the_embedded_corpus(tmp_path: Path) -> None:
    words = ["--quick", "--tokenizer", "bytes", "--output_dir", str(tmp_path), "--num_workers", "1"]
    run(recipe.Config, recipe.main, words)
    data = PreparedData.load(tmp_path)
    assert data.name.startswith(open_corpus("stdlib").name)
    assert 0 < data.statistics["train"]["bytes"] < 400_000


def test_the_same_command_goes_on_and_another_is_refused(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_write_shards", no_space)
        with pytest.raises(SystemExit) as exit_status:
            run(recipe.Config, recipe.main, command(texts, out))
    assert exit_status.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    learned = (out / "processor" / "tokenizer.json").stat().st_mtime_ns

    with pytest.raises(SystemExit):
        run(recipe.Config, recipe.main, command(texts, out, "--rule", "line"))
    assert "rule: 'auto' -> 'line'" in capsys.readouterr().err

    run(recipe.Config, recipe.main, command(texts, out))
    assert PreparedData.load(out).split("train").num_documents == 30
    assert (out / "processor" / "tokenizer.json").stat().st_mtime_ns == learned

    run(recipe.Config, recipe.main, command(texts, out))
    assert "already prepared, and every checksum holds; the text is the one it was made from" in capsys.readouterr().out


def test_users_mistakes_are_one_message(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        (["--data", str(tmp_path / "nothing")], "no such file"),
        (["--data", str(texts)], "no field 'text'; it has 'body'"),
        (["--data", str(texts), "--text_field", "body", "--tokenizer", "bpe:10"], "bpe:N"),
        (["--data", str(texts), "--text_field", "body", "--tokenizer", "bytes", "--rule", "verse"], "rule='verse'"),
        (
            ["--data", str(texts), "--text_field", "body", "--tokenizer", "bytes", "--num_workers", "0"],
            "num_workers = 0",
        ),
    ]:
        with pytest.raises(SystemExit) as exit_status:
            run(recipe.Config, recipe.main, [*words, "--output_dir", str(tmp_path / "out")])
        errors = capsys.readouterr().err
        assert exit_status.value.code == 2
        assert message in errors
        assert "Traceback" not in errors


def test_A11_a_letter_that_changed_is_seen(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recipe.Config, recipe.main, command(texts, tmp_path / "out"))
    changed = (texts / "train.jsonl").read_text().replace("text 7 begins", "text 7 begims", 1)
    (texts / "train.jsonl").write_text(changed)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(recipe.Config, recipe.main, command(texts, tmp_path / "out"))
    told = capsys.readouterr()
    assert "corpus_contents" in told.err
    assert "already prepared" not in told.out
    # of more text than is compared, it is said that it is not
    monkeypatch.setattr(corpora, "COMPARED_BYTES", 10)
    for _ in range(2):
        run(recipe.Config, recipe.main, command(texts, tmp_path / "large"))
    assert "only names and sizes were compared, not the contents" in capsys.readouterr().out


def test_A5_documents_of_train_in_other_splits_are_told(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (texts / "train.jsonl").read_text().splitlines()
    (texts / "valid.jsonl").write_text("\n".join([lines[3], lines[4], lines[3], json.dumps({"body": "Its own."})]))
    run(recipe.Config, recipe.main, command(texts, tmp_path / "out"))
    data = PreparedData.load(tmp_path / "out")
    assert (data.statistics["valid"]["also_in_train"], data.statistics["test"]["also_in_train"]) == (3, 0)
    output = capsys.readouterr().out
    assert output.count("are in train, too") == 1
    assert "valid: 3 of the documents are in train, too" in output


def test_A3_what_was_decided_and_left_out_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(150):
        (folder / f"{i}.txt").write_text(f"This is text number {i}. It is short.\n" * 10)
    (folder / "Train to Busan.txt").write_text("A film. " * 40)
    (folder / "old.txt").write_bytes("Gr\xfc\xdfe an alle".encode("latin-1"))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n')[:-3])
    (folder / "none.csv").write_bytes(b"")
    words = ["--data", str(folder), "--tokenizer", "bytes", "--num_workers", "1", "--output_dir", str(tmp_path / "out")]
    run(recipe.Config, recipe.main, words)
    output = capsys.readouterr().out
    assert "splits: dealt out by share of text (about " in output
    table = [line for line in output.splitlines() if line.startswith("  left out")]
    assert len(table) == 3
    assert any("1 x invalid UTF-8: old.txt (byte 2 (0xfc); it looks like Windows-1252" in line for line in table)
    assert any("1 x unreadable file: cut.jsonl.gz (the file ends before its data do" in line for line in table)
    assert any("1 x empty file: none.csv" in line for line in table)
    assert PreparedData.load(tmp_path / "out").splits == ("train", "valid", "test")


def test_a_rule_that_was_learned_again_is_not_taken_for_the_old_one(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(texts, tmp_path / "out", "--tokenizer", "bytes", "--rule", str(tmp_path / "rule"))
    with_rule(load_tokenizer("bytes"), "punctuation", 16).save_pretrained(tmp_path / "rule")
    run(recipe.Config, recipe.main, words)
    with_rule(load_tokenizer("bytes"), "line", 16).save_pretrained(tmp_path / "rule")
    with pytest.raises(SystemExit):
        run(recipe.Config, recipe.main, words)
    assert "with what rule=" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "runs/data"])
def test_data_are_not_written_among_the_texts_that_they_are_made_of(
    texts: Path, tmp_path: Path, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(texts, tmp_path / "own")
    before = sorted((tmp_path / "own").rglob("*"))
    told = refused(f"prepare --data {tmp_path}/own --output_dir {tmp_path}/own/{below}", capsys)
    assert "lies in the folder of texts" in told
    assert sorted((tmp_path / "own").rglob("*")) == before
    out = f"--num_workers 1 --tokenizer bytes --output_dir {tmp_path}/own/.data"  # hidden, so no text
    for _ in range(2):
        sllm(f"prepare --data {tmp_path}/own --text_field body {out}")


def test_the_folder_of_a_run_is_not_told_to_be_deleted(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("learning_rate: 0.1\n")
    told = refused(f"prepare --data {texts} --output_dir {tmp_path}", capsys)
    assert "holds the config.yaml of something else" in told
    assert "delete" not in told
