"""How long a training is: the command line's word counts, and two words are one too many."""

import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from small_runs import TRAIN, other_tokenizer, refused, sllm

from lmbase.config import load_config
from sllm_recipes.training_run import RunConfig, _settle_steps, odd_lengths

ITEMS = SimpleNamespace(lengths=np.full(100, 50))


@dataclass
class Config(RunConfig):
    pass


@pytest.fixture
def yaml_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train_tokens: 10000\nbatch_size: 4\n")
    return str(path)


def settled(*argv):
    config = load_config(Config, argv)
    _settle_steps(config, ITEMS)
    return config


def test_tokens_set_the_steps(yaml_file):
    config = settled(yaml_file)
    assert (config.train_tokens, config.max_steps) == (10_000, 50)


def test_G3_steps_on_the_command_line_beat_tokens_in_a_file(yaml_file):
    config = settled(yaml_file, "--max_steps", "7")
    assert (config.train_tokens, config.max_steps) == (None, 7)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--train_tokens 1000 --batch_size 4 --warmup_steps 0", ""),
        ("--train_tokens 1000 --batch_size 64 --warmup_steps 0", "one step reads about 3,200 tokens"),
        ("--max_steps 30 --warmup_steps 30", ""),
        ("--max_steps 30 --warmup_steps 120", "so that its rate only grows, to 25% of learning_rate="),
        ("--max_steps 30 --warmup_steps 120 --quick", ""),  # which is to try a command out
    ],
)
def test_more_tokens_than_asked_for_and_a_rate_that_is_not_reached_are_told(words, told):
    config = settled(*words.split())
    lines = odd_lengths(config, ITEMS)
    assert told in "".join(lines)
    assert len(lines) == bool(told)


def test_tokens_on_the_command_line_beat_steps_in_a_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("max_steps: 7\nbatch_size: 4\n")
    assert settled(str(path), "--train_tokens", "2000").max_steps == 10


def test_both_on_the_command_line_are_refused():
    with pytest.raises(ValueError, match="max_steps and train_tokens both"):
        settled("--max_steps", "7", "--train_tokens", "2000")


def test_a_run_goes_on_with_the_same_text_only_if_it_is_cut_and_tokenised_alike(runs, tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text('{"text": "One, two, three. Four."}\n' * 8)
    prepare = f"prepare --data {tmp_path}/train.jsonl --num_workers 1 --rule"
    sllm(f"{prepare} punctuation --tokenizer {runs}/opt/model --output_dir {tmp_path}/a")
    sllm(f"{prepare} line --tokenizer {runs}/opt/model --output_dir {tmp_path}/rule")
    sllm(f"{prepare} punctuation --tokenizer {other_tokenizer(runs)} --output_dir {tmp_path}/tokenizer")
    command = f"train-lm --lm random:tiny --context 64 {TRAIN} --max_steps 1 --output_dir {tmp_path}/run"
    sllm(f"{command} --data {tmp_path}/a")
    for other in ("rule", "tokenizer"):
        assert "data: " in refused(f"{command} --data {tmp_path}/{other}", capsys)
    (tmp_path / "a").rename(tmp_path / "moved")
    sllm(f"{command} --data {tmp_path}/moved")
    (tmp_path / "moved").rename(tmp_path / "away")
    (tmp_path / "rule").rename(tmp_path / "moved")
    told = refused(f"{command} --data {tmp_path}/moved", capsys)
    assert "trained on other data" in told
    assert "another tokenizer, rule or sentence length" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--tokenizer bytes", "tokenizer=bytes: the data in"),
        ("--tokenizer bpe:290", "prepared already, with another one, of 300 tokens; leave the key out"),
        ("--rule line", "prepared already, with 'punctuation'"),
        ("--max_sentence_tokens 8", "max_sentence_tokens=8: the data in"),
    ],
)
def test_what_is_asked_of_prepared_data_is_what_they_were_made_with(runs, tmp_path, given, told, capsys):
    out = f"--output_dir {tmp_path}/run"
    assert told in refused(f"train-lm --lm random:tiny --data {runs}/data {given} {out}", capsys)
    if not given.startswith("--tokenizer"):
        assert told in refused(f"graft --lm {runs}/opt --upper_layers 1 --data {runs}/data {given} {out}", capsys)


def test_a_window_has_room_for_a_token(runs, tmp_path, capsys):
    for recipe in ("train-lm --lm random:tiny", f"finetune-mtp --lm {runs}/opt"):
        told = refused(f"{recipe} --data {runs}/data --context 1 --output_dir {tmp_path}/run", capsys)
        assert "context=1: a window holds the opening token and a token at least; give 2 at least." in told


@pytest.mark.parametrize("resume", ["auto", "restart"])
def test_a_run_does_not_take_the_place_of_what_it_starts_from(runs, tmp_path, resume, capsys):
    """It could not be continued, and the tokens that it was trained on would not be counted any more."""
    shutil.copytree(runs / "opt", tmp_path / "opt")
    shutil.copytree(runs / "sllm", tmp_path / "sllm")
    for recipe, parent in (("train-lm --context 64 --lm", "opt"), ("finetune-sllm --model", "sllm/model")):
        out = f"{tmp_path}/{parent.partition('/')[0]}"
        command = f"{recipe} {tmp_path}/{parent} --data {runs}/data {TRAIN} --resume {resume} --output_dir {out}"
        assert "which this training starts from and would replace" in refused(command, capsys)
        assert (tmp_path / parent).exists()


def test_a_run_is_not_written_into_a_folder_of_data(runs, tmp_path, capsys):
    shutil.copytree(runs / "data", tmp_path / "data")
    before = (tmp_path / "data" / "config.yaml").read_text()
    command = f"train-lm --lm random:tiny --context 64 --data {tmp_path}/data {TRAIN} --output_dir {tmp_path}/data"
    assert "is a folder of something else, data or a model" in refused(command, capsys)
    assert (tmp_path / "data" / "config.yaml").read_text() == before
