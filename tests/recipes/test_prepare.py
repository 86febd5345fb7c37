"""The recipe `prepare`: from a command line to data that loads, and on again after an interruption."""

import json
from pathlib import Path

import pytest

from lmbase.config import run
from lmbase.text.tokenizers import vocabulary_size
from sllm_data import prepare as preparing
from sllm_data.corpora import open_corpus
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
    assert "already prepared" in capsys.readouterr().out


def test_users_mistakes_are_one_message(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        (["--data", str(tmp_path / "nothing")], "no such file"),
        (["--data", str(texts)], "no field 'text'; it has 'body'"),
        (["--data", str(texts), "--text_field", "body", "--tokenizer", "bpe:10"], "bpe:N"),
        (["--data", str(texts), "--text_field", "body", "--tokenizer", "bytes", "--rule", "verse"], "rule='verse'"),
        (["--data", str(texts), "--text_field", "body", "--tokenizer", "bytes", "--num_workers", "0"], "num_workers=0"),
    ]:
        with pytest.raises(SystemExit) as exit_status:
            run(recipe.Config, recipe.main, [*words, "--output_dir", str(tmp_path / "out")])
        errors = capsys.readouterr().err
        assert exit_status.value.code == 2
        assert message in errors
        assert "Traceback" not in errors
