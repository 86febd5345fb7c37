"""`sllm generate` with every kind of model on a llama-like trunk, as a user types it."""

import pytest
from families import MAKERS
from small_runs import sllm


@pytest.mark.parametrize("name", MAKERS)
def test_the_prompt_and_what_follows_are_streamed_and_told(kinds, name, capsys):
    sllm(f"generate --model {kinds}/{name} --prompt Hello --max_new_tokens 6 --device cpu")
    told = capsys.readouterr()
    assert told.out.startswith("Hello")
    assert " tokens/s), finished by " in told.err
    assert ("tokens per forward pass" in told.err) <= (name != "plain")


def test_an_assistant_changes_no_text(kinds, capsys):
    command = f"generate --model {kinds}/plain --prompt Hello --max_new_tokens 8 --device cpu"
    sllm(command)
    alone = capsys.readouterr().out
    sllm(f"{command} --assistant {kinds}/sentences")
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
def test_mistakes_end_with_a_message(kinds, words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        sllm(f"generate --prompt Hello {words.replace('{}', str(kinds))}")
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
