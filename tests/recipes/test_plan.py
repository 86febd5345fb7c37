"""`sllm plan` as a user types it."""

import pytest
import torch

from sllm_recipes import cli


def plan(command: str) -> None:
    cli.main(["plan", *command.split()])


@pytest.fixture
def no_weights(monkeypatch):
    """Fails where a large tensor is made."""
    empty = torch.empty

    def checked(*size, **options):
        made = empty(*size, **options)
        assert made.is_meta or type(made) is not torch.Tensor or made.numel() < 1e6
        return made

    monkeypatch.setattr(torch, "empty", checked)


def test_a_plan_has_both_models_parts_time_and_cost(capsys, no_weights):
    plan(
        "--lm random:16x1 --data 10M --gpus l4 x2 --batch_size 2 --context 32 --max_sentences 3 --price 1 --ema_decay 1"
    )
    told = capsys.readouterr().out
    for line in (
        "SLLM | token level",
        "- encoder",
        "- optimizer",
        "- average",
        "cost",
        "2, ddp",
        "--utilisation",
        "l4",
    ):
        assert line in told
    assert "Not known" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--data 1B", "--lm"),
        ("--lm random:tiny", "--data 10B"),
        ("--lm random:tiny --data 0", "from 1 on"),
        ("--lm random:tiny --data -5", "from 1 on"),
        ("--lm random:tiny --data 1.2.3B", "no number"),
        ("--lm random:tiny --data nowhere", "neither a number"),
        ("--lm random:huge --data 1B", "sizes"),
        ("--lm ./nothing --data 1B --gpus h100", "no such file or folder"),
        ("--lm random:tiny --data 1B --gpus h1000", "h100"),
        ("--lm random:tiny --data 1B --gpus h100 x0", "at least one"),
        ("--lm random:tiny --data 1B --batch_size 0", "batch_size"),
        ("--lm random:tiny --data 1B --price -1", "price"),
        ("--lm random:tiny --data 1B --tokens_per_sentence 70", "max_sentence_tokens"),
        ("--lm random:tiny --data 1B --gpus h100 --max_sentences 5000", "2047"),
        ("--lm random:tiny --data 1B --gpus mine --tflops 5", "--gpu_gigabytes"),
    ],
)
def test_what_cannot_be_planned_is_told(words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        plan(words)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
