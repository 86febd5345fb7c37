"""Defaults < YAML < command line, and what the user reads when something is wrong."""

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PositiveInt

from lmbase.config.command_line import differing_keys, load_config, option, run, save_config, single_process


@dataclass
class Inner:
    width: int = option(3, "how wide")
    rate: float = option(1e-4, "how fast")


@dataclass
class Config:
    data: str | list[str] = option("stdlib", "what to read")
    model: str = option("tiny", "which model")
    tokenizer: str | None = option(None, "which tokenizer")
    batch_size: PositiveInt = option(8, "items per step")
    inner: Inner = option(Inner(), "the inner part")
    quick: bool = option(False, "a short run")
    betas: tuple[float, float] = option((0.9, 0.95), "two constants")
    dtype: Literal["fp32", "bf16"] = option("fp32", "numbers")
    num_draft: int | Literal["auto"] = option("auto", "drafts")
    sizes: list[int] = option([1, 2], "some sizes")
    names: list[str] = option([], "some names")
    log_every: int = option(10, "steps between lines", may_differ=True)

    def __post_init__(self) -> None:
        if self.quick and self.batch_size > 100:
            raise ValueError("quick and batch_size > 100 exclude each other")


def write(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


def test_later_layers_win(tmp_path):
    config_file = write(tmp_path / "a.yaml", "batch-size: 4\ninner: {rate: 1e-3}\nmodel: small\n")
    config = load_config(Config, [config_file, "--model", "large", "--inner.width=7"])
    assert (config.batch_size, config.inner, config.model, config.dtype) == (4, Inner(7, 1e-3), "large", "fp32")


def test_defaults_are_not_shared():
    first, second = load_config(Config, []), load_config(Config, [])
    first.sizes.append(3)
    first.inner.width = 99
    assert second.sizes == [1, 2]
    assert second.inner.width == 3


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--quick"], "quick", True),
        (["--quick", "false"], "quick", False),
        (["--batch-size", "4"], "batch_size", 4),
        (["--betas", "0.5", "1e-2"], "betas", (0.5, 0.01)),
        (["--betas=[0.5, 0.9]"], "betas", (0.5, 0.9)),
        (["--data", "a.txt", "b.txt"], "data", ["a.txt", "b.txt"]),
        (["--data", "[a, b]"], "data", ["a", "b"]),
        (["--sizes", "5"], "sizes", [5]),
        (["--names", "1", "none"], "names", ["1", "none"]),
        (["--num-draft", "3"], "num_draft", 3),
        (["--num-draft", "auto"], "num_draft", "auto"),
        (["--model", "007"], "model", "007"),
        (["--model", "no"], "model", "no"),
        (["--model", "a: b"], "model", "a: b"),
        (["--data", "1e-4"], "data", "1e-4"),
        (["--tokenizer", "none"], "tokenizer", None),
    ],
)
def test_words_become_values_of_the_key_s_type(words, key, value):
    assert getattr(load_config(Config, words), key) == value


def test_everything_wrong_is_reported_at_once(tmp_path):
    config_file = write(tmp_path / "a.yaml", "bach_size: 4\ninner: {rate: fast, width: 2}\nbetas: [1]\n")
    with pytest.raises(ValueError) as error:
        load_config(Config, [config_file, "--dtype", "fp16", "--batch_size", "-3", "--innner.width", "1", "--model"])
    text = str(error.value)
    assert "bach_size = 4 (a.yaml): unknown key; did you mean batch_size" in text
    assert "innner.width = '1' (command line): unknown key; did you mean inner.width" in text
    assert "inner.rate = 'fast' (a.yaml): expected float" in text
    assert "dtype = 'fp16' (command line): expected fp32 | bf16" in text
    assert "batch_size = -3 (command line): expected int > 0" in text
    assert "--model (command line): a value is missing" in text
    assert "betas = [1] (a.yaml): expected tuple[float, float]" in text


def test_a_rule_between_keys_is_reported():
    with pytest.raises(ValueError, match="exclude each other"):
        load_config(Config, ["--quick", "--batch_size", "200"])


def test_a_second_positional_word_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one\.yaml"):
        load_config(Config, ["--quick", "--dtype=bf16", "--model", "a", "b", "--", "one.yaml"])
    with pytest.raises(ValueError, match="batch_size"):
        load_config(Config, ["--batch_size", "1", "2"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- a", "key: value"), ("model: a\nmodel: b", "given twice: model"), ("\x00", "YAML")],
)
def test_broken_yaml_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config(Config, [write(tmp_path / "broken.yaml", text)])
    assert "broken.yaml" in str(error.value)


def test_yaml_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("model: é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yaml"):
        load_config(Config, [str(path)])


def test_shipped_configs_are_found_by_name(tmp_path):
    write(tmp_path / "vae_tiny.yaml", "model: shipped")
    for name in ("vae_tiny", "vae-tiny", "vae_tiny.yaml"):
        assert load_config(Config, [name], tmp_path).model == "shipped"
    with pytest.raises(ValueError, match="did you mean vae_tiny"):
        load_config(Config, ["vae_tinny"], tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Config,
        data=st.text() | st.lists(st.text(), min_size=1),
        model=st.text(),
        tokenizer=st.none() | st.text(),
        inner=st.builds(Inner, rate=st.floats(allow_nan=False)),
        names=st.lists(st.text()),
        betas=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
    )
)
def test_a_saved_configuration_reads_back_the_same(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    save_config(config, path)
    again = load_config(Config, [str(path)])
    assert again == config
    assert differing_keys(config, path) == []


@given(st.text())
def test_text_reaches_a_text_key_untouched(text):
    assert load_config(Config, [f"--model={text}"]).model == text


def test_a_key_that_a_saved_run_does_not_know_has_its_default(tmp_path):
    """A run of an earlier version goes on under a later one, unless a new key changes it."""
    path = tmp_path / "config.yaml"
    path.write_text("{}\n", encoding="utf-8")
    assert differing_keys(load_config(Config, []), path) == []


def test_differing_keys_leave_out_what_may_differ(tmp_path):
    save_config(load_config(Config, []), tmp_path / "config.yaml")
    new = load_config(Config, ["--log_every", "3", "--inner.width", "9"])
    assert differing_keys(new, tmp_path / "config.yaml") == ["inner.width: 3 -> 9"]


def test_help_lists_every_key_with_default_and_meaning(capsys):
    with pytest.raises(SystemExit) as leave:
        load_config(Config, ["--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("Defaults < YAML < command line")
    for part in ("--inner.width", "how wide", "--dtype  (fp32 | bf16, default 'fp32')", "int > 0, default 8", "drafts"):
        assert part in text


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (ValueError("the width is odd"), 2, "error: the width is odd"),
        (FileNotFoundError(2, "No such file", "x.txt"), 2, "error: x.txt: No such file"),
        (OSError(28, "No space left on device"), 2, "error: No space is left on the disk"),
        (OSError(28, "No space left on device", "out/x"), 2, "error: out/x: No space is left on the disk"),
        (OSError(28, "All is kept", "out"), 2, "error: out: All is kept"),
        (FloatingPointError("step 3"), 2, "error: step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_user_s_mistake_is_one_message_without_traceback(capsys, raised, status, message):
    def main(config):
        raise raised

    with pytest.raises(SystemExit) as leave:
        run(Config, main, [])
    assert leave.value.code == status
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_the_traceback_is_shown_on_request(capsys, monkeypatch):
    def main(config):
        raise ValueError("odd")

    monkeypatch.setenv("SLLM_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        run(Config, main, [])
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback():
    def main(config):
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        run(Config, main, [])


def test_reading_the_configuration_does_not_load_torch():
    code = "import lmbase.config, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("rank", ["0", "1", "7"])
def test_a_single_process_recipe_runs_in_the_first_process_of_torchrun_alone(capsys, monkeypatch, rank):
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    seen = []

    @single_process
    def main(config: Config) -> None:
        seen.append((config.model, [name for name in os.environ if name.endswith(("RANK", "WORLD_SIZE"))]))

    run(Config, main, ["--model", "m"])
    assert seen == ([("m", [])] if rank == "0" else [])
    if rank != "0":
        run(Config, main, ["--no_such_key", "1"])  # one process complains, not all
        assert capsys.readouterr().err == ""


def test_other_recipes_run_in_every_process(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    run(Config, lambda config: seen.append(os.environ["RANK"]), [])
    assert seen == ["1"]
