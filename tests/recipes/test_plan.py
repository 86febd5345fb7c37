"""`sllm plan` as a user types it."""

import numpy as np
import pytest
import torch

from lmbase.config import load_config
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer, vocabulary_size
from sllm_data.corpora import open_corpus
from sllm_data.prepare import prepare
from sllm_recipes import cli
from sllm_recipes.plan import Config, designs, reading


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
        "--lm random:16x1 --data 10M --gpus l4 x2 --batch_size 2 --context 32 --max_sentences 3 --price 1"
        " --ema_decay 0.9"
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


def test_prepared_data_tell_their_sentences_windows_and_vocabulary(tmp_path):
    (tmp_path / "train.txt").write_text("One sentence, and another one. A third is here! " * 300)
    data = prepare(open_corpus(str(tmp_path), "text"), SentenceProcessor(load_tokenizer("bytes")), tmp_path / "data")
    config = load_config(Config, ["--lm", "random:16x1", "--data", str(tmp_path / "data"), "--max_sentences", "1000"])
    read = reading(config)
    split = data.split("train")
    assert (read.tokens, read.lengths[:3]) == (split.num_tokens, tuple(np.diff(split.sentence_tokens)[:3]))
    sentences, tokens = designs(config, read)
    assert sentences.trunk.vocab_size == vocabulary_size(data.processor.tokenizer)
    assert read.fullness(sentences) == pytest.approx(split.num_sentences / 1000, rel=0.01)
    assert 0.9 < read.fullness(tokens) <= 1
    for key in ("--tokens_per_sentence 3", "--max_sentence_tokens 7"):
        with pytest.raises(ValueError, match="tell what their sentences are"):
            reading(load_config(Config, ["--lm", "random:16x1", "--data", str(tmp_path / "data"), *key.split()]))


def test_sentences_are_those_of_all_texts(tmp_path, monkeypatch):
    (tmp_path / "train.txt").write_text("Yes! " * 300 + "A sentence of many more bytes than that! " * 300)
    prepare(open_corpus(str(tmp_path), "text"), SentenceProcessor(load_tokenizer("bytes")), tmp_path / "data")
    monkeypatch.setattr("sllm_recipes.plan.SAMPLE", 100)
    read = reading(load_config(Config, ["--lm", "random:16x1", "--data", str(tmp_path / "data")]))
    assert sum(read.lengths) / len(read.lengths) == pytest.approx(np.mean([5, 41]), rel=0.02)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--data 1B", "--lm"),
        ("--lm random:tiny", "--data 10B"),
        ("--lm random:tiny --data 0", "from 1 on"),
        ("--lm random:tiny --data -5", "from 1 on"),
        ("--lm random:tiny --data 1.2.3B", "no number"),
        ("--lm random:tiny --data 1,5M", "no number"),  # not 15M
        ("--lm random:tiny --data 1M --gpus h100 --utilisation 35", "utilisation"),
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
        ("--lm opt-125m --data 1B --vocab_size 500", "its own vocabulary"),
        ("--lm random:tiny --data 1B --gpus h100 --vocab_size 1", "vocab_size = 1"),
        ("--lm random:tiny --data 1B --gpus h100 --context 5000", "context=5000: random:tiny has 2048 positions"),
        ("--lm random:tiny --data 1B --gpus here --utilisation 0.9", "utilisation=0.9: what training reaches is"),
        ("--lm random:tiny --data 1B --gpus here --tflops 9", "is measured, and tflops=9 would not count"),
        (
            "--lm random:tiny --data 1B --gpus h100 --upper_layers 1 --max_sentences 9 --num_encoder_layers 2",
            "num_encoder_layers=2: a graft by own layers",
        ),
    ],
)
def test_what_cannot_be_planned_is_told(words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        plan(words)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
