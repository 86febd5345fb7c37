"""`sllm generate` and `sllm audit` with every kind of model on a llama-like trunk, as a user types it."""

import pytest
from families import MAKERS
from tiny import make_processor, make_vae

from sllm_recipes import cli


def sllm(command: str) -> None:
    cli.main(command.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, make in (MAKERS | {"vae": lambda family: make_vae()}).items():
        make("llama").save_pretrained(folder / name)
        make_processor().tokenizer.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("name", MAKERS)
def test_the_prompt_and_what_follows_are_streamed_and_told(folder, name, capsys):
    sllm(f"generate --model {folder}/{name} --prompt Hello --max_new_tokens 6 --device cpu")
    told = capsys.readouterr()
    assert told.out.startswith("Hello")
    assert " tokens/s), finished by " in told.err
    assert ("tokens per forward pass" in told.err) <= (name != "plain")


def test_an_assistant_changes_no_text(folder, capsys):
    command = f"generate --model {folder}/plain --prompt Hello --max_new_tokens 8 --device cpu"
    sllm(command)
    alone = capsys.readouterr().out
    sllm(f"{command} --assistant {folder}/sentences")
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model {}/vae", "is an autoencoder: it writes what it read"),
        ("--model {}/heads --assistant {}/sentences", "drafts for a plain token-level model"),
        ("--model {}/plain --assistant {}/sentences --compile", "--compile does not go with --assistant"),
        ("--model {}/plain --max_new_tokens 99", "at most 59 new tokens fit"),
        ("--model {}/plain --device gpu", "known are auto, cpu, cuda"),
    ],
)
def test_mistakes_end_with_a_message(folder, words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        sllm(f"generate --prompt Hello {words.replace('{}', str(folder))}")
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_every_kind_is_audited(folder, tmp_path, capsys):
    (tmp_path / "test.txt").write_text("One, two, three. Four and five! Six.")
    models = " ".join(f"{folder}/{name}" for name in MAKERS)
    sllm(f"audit --model {models} --data {tmp_path}/test.txt --device cpu")
    assert capsys.readouterr().out.count(": passed") == len(MAKERS)
