"""How long a training is: the command line's word counts, and two words are one too many."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from lmbase.config import load_config
from sllm_recipes.training_run import RunConfig, _settle_steps

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


def test_tokens_on_the_command_line_beat_steps_in_a_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("max_steps: 7\nbatch_size: 4\n")
    assert settled(str(path), "--train_tokens", "2000").max_steps == 10


def test_both_on_the_command_line_are_refused():
    with pytest.raises(ValueError, match="max_steps and train_tokens both"):
        settled("--max_steps", "7", "--train_tokens", "2000")
