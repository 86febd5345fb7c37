"""What a story plans: as much as a machine can do in the time, and no more than the text bears."""

from types import SimpleNamespace

import numpy as np
import pytest

from sllm_recipes import story_plan
from sllm_recipes.story import Config
from sllm_recipes.story_plan import Speed, check_enough


def data(train=500_000, test=30_000, documents=20, **more):
    """Prepared data as the plan sees them."""
    counts = {"tokens": train, "bytes": 4 * train, "sentences": train // 9, "documents": 100}
    splits = {"train": counts, "valid": counts, "test": test and counts | {"tokens": test, "documents": documents}}
    splits |= more
    borders = np.linspace(0, test, documents + 1).astype(int)
    split = SimpleNamespace(
        sentence_tokens=borders, document_sentences=np.arange(documents + 1), num_documents=documents
    )
    return SimpleNamespace(
        name="mine",
        splits_are="somehow",
        splits=tuple(name for name, found in splits.items() if found),
        statistics={name: found for name, found in splits.items() if found},
        split=lambda name: split,
    )


def planned(seconds_per_token=1e-4, of=None, **config):
    speed = Speed(dict.fromkeys(("lm", "vae", "sllm"), seconds_per_token), 0.002, 256)
    return story_plan._planned(Config(prompt="So", **config), of or data(), speed, {})


@pytest.mark.parametrize("lm", ["random:tiny", "some/model"])
@pytest.mark.parametrize("minutes", [3.0, 10.0])
def test_the_time_is_kept_and_both_sides_read_as_much(lm, minutes):
    plan = planned(lm=lm, minutes=minutes, of=data(train=10**8))
    assert plan.tokens["tuned"] == plan.tokens["vae"] + plan.tokens["sllm"]
    assert ("lm" in plan.tokens) == (lm == "random:tiny")
    assert sum(plan.seconds.values()) + story_plan.OTHER_SECONDS == pytest.approx(60 * minutes, rel=0.05)


def test_a_slow_machine_evaluates_less_and_takes_small_steps():
    plan = planned(seconds_per_token=1e-2, minutes=10.0, lm="some/model")
    assert 2 <= plan.keys["evaluate"]["max_documents"] < 20
    assert plan.keys["sllm"]["batch_size"] < 8
    assert plan.keys["sllm"]["warmup_steps"] < 50


def test_little_text_is_not_read_for_ever():
    plan = planned(minutes=600.0, of=data(train=100_000))
    assert plan.tokens["lm"] <= story_plan.PASSES * 100_000


def test_without_minutes_it_is_the_demo_s_tokens_on_every_machine():
    fast, slow = planned(1e-5, minutes=None), planned(1e-2, minutes=None)
    assert fast.tokens == slow.tokens == story_plan.TOKENS
    assert fast.keys == slow.keys
    assert not any(fast.keys.values())


def test_too_little_text_and_text_that_is_not_held_out_are_refused(capsys):
    with pytest.raises(ValueError, match=r"mine has 4,000 bytes \(1,000 tokens\) to train on, too little"):
        check_enough(data(train=1000))
    with pytest.raises(ValueError, match=r"No text of mine could be held out \(somehow\)"):
        check_enough(data(test=0))
    assert capsys.readouterr().out == ""
    check_enough(data())
    assert capsys.readouterr().out == ""
    check_enough(data(train=50_000, documents=1))
    told = capsys.readouterr().out
    assert "by heart" in told
    assert "no intervals" in told
    check_enough(data(valid=None))
    assert "No text is held out for valid" in capsys.readouterr().out
