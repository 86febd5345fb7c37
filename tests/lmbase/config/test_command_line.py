"""Defaults < YAML < command line, and what the user reads when something is wrong."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_config import Config, Inner, write

from lmbase.config import given_on_command_line, load_config


def test_later_layers_win(tmp_path):
    config_file = write(tmp_path / "a.yaml", "batch-size: 4\ninner: {rate: 1e-3}\nmodel: small\n")
    config = load_config(Config, [config_file, "--model", "large", "--inner.width=7"])
    assert (config.batch_size, config.inner, config.model, config.dtype) == (4, Inner(7, 1e-3), "large", "fp32")


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
        (["--ends", "[END]"], "ends", ["[END]"]),
        (["--ends", "[/INST]", "Q:", "None", "{model}"], "ends", ["[/INST]", "Q:", "None", "{model}"]),
        (["--ends", "none"], "ends", ["none"]),
        (["--ends", "---", "-- so", "--quick"], "ends", ["---", "-- so"]),
        (["--ends=--quick"], "ends", ["--quick"]),
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


@pytest.mark.parametrize("value", ["inf", "-Infinity", ".inf", "nan", "1e400", "9" * 400])
def test_a_number_that_is_none_is_refused_in_every_layer(tmp_path, value):
    file = write(tmp_path / "a.yaml", f"betas: [0.5, {value}]\n")
    with pytest.raises(ValueError) as error:
        load_config(Config, [file, f"--inner.rate={value}"])
    for told in ("inner.rate = ", "expected float; true, nan and inf are none", "betas = [0.5, ", "(a.yaml)"):
        assert told in str(error.value)


def test_an_empty_name_is_refused_where_it_is_no_text(tmp_path):
    file = write(tmp_path / "a.yaml", 'names: [a, ""]\n')
    with pytest.raises(ValueError) as error:
        load_config(Config, [file, "--data", "", "--tokenizer="])
    for key in ("data = '' (command line)", "tokenizer = '' (command line)", "names = ['a', ''] (a.yaml)"):
        assert f"{key}: an empty name; a variable without a value?" in str(error.value)


@given(st.text(min_size=1))
def test_text_reaches_a_text_key_untouched(text):
    assert load_config(Config, [f"--model={text}"]).model == text


def test_help_lists_every_key_with_default_and_meaning(capsys):
    with pytest.raises(SystemExit) as leave:
        load_config(Config, ["--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("A configuration with a key of every type")
    for part in (
        "--inner.width",
        "how wide",
        "--dtype  (fp32 | bf16, default 'fp32')",
        "int > 0, default 8",
        "drafts",
        "also --net",
    ):
        assert part in text


def test_reading_the_configuration_does_not_load_torch():
    code = "import lmbase.config, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_key_s_other_name_is_taken_everywhere(tmp_path):
    config_file = write(tmp_path / "a.yaml", "net: small\ninner: {breadth: 4}\n")
    config = load_config(Config, [config_file])
    assert (config.model, config.inner.width) == ("small", 4)
    config = load_config(Config, [config_file, "--model", "large", "--inner.breadth=5"])
    assert (config.model, config.inner.width) == ("large", 5)


def test_both_names_of_a_key_are_refused_with_all_else_that_is_wrong():
    with pytest.raises(ValueError) as error:
        load_config(Config, ["--net", "a", "--model", "b", "--colour", "red"])
    assert "`net=` beside `model=`: two names of one key; give one of them (command line)" in str(error.value)
    assert "colour = 'red' (command line): unknown key" in str(error.value)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--data", "a.txt", "--data", "b.txt"], "data"),
        (["--ends", "x", "--batch_size", "4", "--ends=y"], "ends"),
        (["--sizes", "1", "--sizes", "[2, 3]"], "sizes"),
    ],
)
def test_of_a_list_given_twice_no_value_is_left_out_unsaid(words, name):
    with pytest.raises(ValueError, match=f"--{name} .command line.: given twice; give this list once"):
        load_config(Config, words)
    assert load_config(Config, ["--batch_size", "4", "--batch-size=5"]).batch_size == 5  # of one value the last counts


def test_what_stood_on_the_command_line_is_known(tmp_path):
    config_file = write(tmp_path / "a.yaml", "batch_size: 4\n")
    config = load_config(Config, [config_file, "--net", "large", "--inner.width=7"])
    assert given_on_command_line(config) == {"model", "inner.width"}
    assert given_on_command_line(Config()) == frozenset()
    assert config == dataclasses.replace(config)


# -- values that go with another key's -------------------------------------------------------------------------------

BY_MODEL = """
model: org/small
batch_size: 8
by_model:
  org/small: {batch_size: 16}
  org/large: {batch_size: 2, inner: {rate: 1e-5}}
"""


@pytest.mark.parametrize(
    ("words", "batch_size", "rate"),
    [
        ([], 16, Config().inner.rate),
        (["--model", "org/large"], 2, 1e-5),
        (["--model", "org/other"], 8, Config().inner.rate),
        (["--model", "org/large", "--batch_size", "3"], 3, 1e-5),
    ],
)
def test_a_file_may_say_what_goes_with_a_keys_value(tmp_path, words, batch_size, rate):
    config = load_config(Config, [write(tmp_path / "a.yaml", BY_MODEL), *words])
    assert (config.batch_size, config.inner.rate) == (batch_size, rate)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("by_model: {org/small: {batch_sise: 2}}\nmodel: org/small\n", "did you mean batch_size"),
        ("by_colour: {red: {batch_size: 2}}\n", "by_colour"),
        ("by_model: [1, 2]\n", "by_model"),
        ("by_model: {org/small: 3}\n", "by_model"),
    ],
)
def test_a_table_that_says_nothing_is_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        load_config(Config, [write(tmp_path / "a.yaml", text)])


@pytest.mark.parametrize(
    ("model", "folder"),
    [("org/small-1", "runs/small-1_8"), ("runs/x/", "runs/x_8"), ("random:tiny", "runs/random-tiny_8")],
)
def test_a_text_may_hold_other_keys_values(tmp_path, model, folder):
    text = f"model: {model}\nbatch_size: 8\ntokenizer: runs/{{model}}_{{batch_size}}\ndata: '{{nothing}}'\n"
    config = load_config(Config, [write(tmp_path / "a.yaml", text)])
    assert (config.tokenizer, config.data) == (folder, "{nothing}")


def test_the_wrong_entry_of_a_list_is_named(tmp_path):
    config_file = write(tmp_path / "a.yaml", "sizes: [1, 2, x, 3]\n")
    with pytest.raises(ValueError, match=r"sizes = 'x' \(a.yaml\): expected list of int; .*, at entry 3"):
        load_config(Config, [config_file])


def test_a_word_too_many_behind_a_key_says_where_it_belongs():
    """`sllm generate --model NAME a prompt`"""
    with pytest.raises(ValueError, match=r"--model .*one value, and hello stands behind 'small': .* before all keys"):
        load_config(Config, ["--model", "small", "hello"])
