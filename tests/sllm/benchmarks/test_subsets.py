"""Subsets have keys of their own: one default each, refused where they do not apply, shortened by --quick."""

import dataclasses
from typing import Any

import pytest

from sllm.benchmarks.keys import Benchmark
from sllm.benchmarks.subsets import SUBSETS, Generate, chosen_part, keys_of, shorten

EVERY: Any = keys_of(list(SUBSETS), __name__)


def names(kind: type[Benchmark]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def test_all_subsets_together_have_the_keys_of_each():
    assert names(EVERY) == set().union(*map(names, SUBSETS.values()))
    for kind in SUBSETS.values():
        for field in dataclasses.fields(kind):
            assert getattr(EVERY(), field.name) == getattr(kind(), field.name), field.name


def test_a_key_of_another_subset_is_refused_with_the_name_of_that():
    with pytest.raises(ValueError, match=r"ways = \['tree'\]: no key of --subset train, but of replay"):
        chosen_part(EVERY(subset=["train"], ways=["tree"]), __name__)


def test_what_is_left_has_the_keys_of_the_chosen_subsets():
    part: Any = chosen_part(EVERY(subset=["cache", "heads"], size=["tiny"]), __name__)
    assert names(type(part)) == names(SUBSETS["cache"]) | names(SUBSETS["heads"])
    assert part.size == ["tiny"]


def test_quick_sets_the_keys_of_the_chosen_subsets_and_of_no_others():
    part: Any = chosen_part(EVERY(subset=["generate"], quick=True), __name__)
    shorten(part)
    assert (part.prompt_tokens, part.new_tokens, part.rounds, part.vocab_size) == ([64], 64, 2, 4096)
    assert not hasattr(part, "train_tokens")


def test_cases_vary_the_prompt_or_the_batch():
    assert Generate(prompt_tokens=[8, 16], batch_size=[1, 4]).cases() == [(8, 1), (8, 4), (16, 1)]


def test_replaying_needs_something_to_replay():
    with pytest.raises(ValueError, match="--acceptance_from"):
        EVERY(subset=["replay"])
