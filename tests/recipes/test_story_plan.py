"""What a story plans: as much as a machine can do in the time, and no more than the text bears."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from lmbase.config.yaml_files import find_config
from sllm_recipes import story_plan
from sllm_recipes.story import Config
from sllm_recipes.story_plan import Speed, check_enough
from sllm_recipes.tools import CONFIGS


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


def test_numbers_are_those_of_the_demo_s_configurations():
    of = dict.fromkeys(("lm", "tuned"), "lm_demo") | {"vae": "vae_demo", "sllm": "sllm_demo", "mtp": "mtp_demo"}
    files = {part: yaml.safe_load(find_config(name, CONFIGS).read_text(encoding="utf-8")) for part, name in of.items()}
    files["drafting"] = yaml.safe_load(find_config("sllm_demo_drafting", CONFIGS).read_text(encoding="utf-8"))
    files["vae"] |= story_plan.KEYS["vae"]
    files["tuned"]["train_tokens"] = files["vae"]["train_tokens"] + files["sllm"]["train_tokens"]
    assert {part: keys["batch_size"] for part, keys in files.items()} == story_plan.BATCHES
    assert {part: keys["train_tokens"] for part, keys in files.items()} == story_plan.TOKENS
    assert {files[part]["context"] for part in ("lm", "mtp")} == {story_plan.CONTEXT}
    assert files["sllm"]["max_sentences"] == story_plan.MAX_SENTENCES


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


def test_a_story_goes_on_with_another_prompt_and_no_other_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(Speed, "measured", lambda *_: Speed(dict.fromkeys(("lm", "vae", "sllm"), 1e-4), 0.002, 256))
    config = Config(prompt="--- so", output_dir=str(tmp_path))
    first = story_plan.make_plan(config, data())
    assert story_plan.make_plan(replace(config, prompt=None), data()) == first
    assert story_plan.make_plan(replace(config, prompt="Hello"), data()) == replace(first, prompt="Hello")
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        story_plan.make_plan(replace(config, seed=1), data())


def test_little_text_is_not_read_for_ever():
    plan = planned(minutes=600.0, of=data(train=100_000))
    assert plan.tokens["lm"] <= story_plan.PASSES * 100_000


def test_without_minutes_it_is_the_demo_s_tokens_on_every_machine():
    fast, slow = planned(1e-5, minutes=None), planned(1e-2, minutes=None)
    assert fast.tokens == slow.tokens == story_plan.TOKENS
    assert fast.keys == slow.keys
    assert not fast.keys["evaluate"]
    assert not {"warmup_steps", "eval_every"} & {name for keys in fast.keys.values() for name in keys}


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
