"""Keys of every training: what their values may be, and which a run may be continued with."""

import dataclasses

import pytest

from lmbase.config import load_config
from lmbase.config.options import keys_of
from lmbase.training.training_config import TrainingConfig


@pytest.mark.parametrize(
    "words",
    [
        "--batch_size 0",
        "--micro_batch_size 0",
        "--max_steps 0",
        "--learning_rate 0",
        "--warmup_steps -1",
        "--weight_decay -0.1",
        "--log_every 0",
        "--keep_checkpoints 0",
        "--dtype fp16",
        "--schedule step",
        "--strategy tensor",
        "--ema_decay 1",
        "--ema_decay 999",
        "--betas 0.9 1",
        "--betas -0.1 0.9",
        "--min_learning_rate_ratio 1.5",  # of the highest rate, which it would be itself
        "--seed 18446744073709551616",
        "--tracker mlflow",
    ],
)
def test_values_that_no_training_can_have_are_refused(words):
    name = words.split()[0].removeprefix("--")
    with pytest.raises(ValueError, match=f"{name} = "):
        load_config(TrainingConfig, words.split())


def test_zero_turns_off_what_can_be_off():
    words = "--save_every 0 --eval_every 0 --grad_clip 0 --warmup_steps 0 --ema_decay 0 --micro_batch_size null"
    config = load_config(TrainingConfig, words.split())
    off = {name for name, value in dataclasses.asdict(config).items() if value in (0, None) and value is not False}
    assert {word.removeprefix("--") for word in words.split()[::2]} <= off


def test_what_decides_about_the_weights_may_not_differ_when_a_run_goes_on():
    free = {name for name, key in keys_of(TrainingConfig).items() if key.may_differ}
    deciding = {
        "seed",
        "dtype",
        "batch_size",
        "max_steps",
        "learning_rate",
        "schedule",
        "betas",
        "ema_decay",
        "grad_clip",
    }
    assert deciding & free == set()
    assert {"output_dir", "device", "micro_batch_size", "log_every", "strategy", "save_every"} <= free
