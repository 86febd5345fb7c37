"""Runners take turns, rounds become columns, and a model of any family is timed."""

from functools import partial

import pytest
import torch
from families import FAMILIES, make_lm
from tiny import make_processor

from lmbase.benchmarking.timing import (
    Arrivals,
    Generation,
    alternate,
    cache_bytes,
    clocked,
    drafting_columns,
    ratio_columns,
    speeds,
    spread_columns,
    time_lm,
)
from lmbase.modeling.trunk import key_value_shape


def test_runners_take_turns_after_a_warm_up():
    calls: list[str] = []

    def call(name: str) -> int:
        calls.append(name)
        return len(calls)

    found = alternate({name: partial(call, name) for name in "ab"}, 3)
    assert "".join(calls) == "ab" * 4
    assert found == {"a": [3, 5, 7], "b": [4, 6, 8]}


def test_G9_slow_rounds_are_fewer(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("lmbase.benchmarking.timing.time.perf_counter", lambda: clock[0])

    def slow() -> None:
        clock[0] += 10

    rounds = [len(alternate({"a": slow}, 9, most_seconds=most)["a"]) for most in (5, 35, 1000)]
    assert rounds == [2, 3, 9]


def test_something_else_runs_after_each_round_but_not_after_the_warm_up():
    rounds: list[int] = []
    alternate({"a": lambda: None}, 2, after_each=lambda: rounds.append(1))
    assert len(rounds) == 2


def test_columns_have_median_lowest_and_highest():
    assert spread_columns("s", [3.0, 1.0, 2.0]) == {"s": 2.0, "s_low": 1.0, "s_high": 3.0}
    # pair by pair: the median of ratios, not the ratio of medians
    assert ratio_columns("r", [2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"r": 2.0, "r_low": 1.0, "r_high": 3.0}
    with pytest.raises(ValueError, match="zip"):
        ratio_columns("r", [1.0], [1.0, 2.0])


def test_drafts_have_a_column_where_there_are_any():
    plain = Generation(2.0, 1.0, 10, 100, 5)
    assert speeds([plain]) == [5.0]
    assert drafting_columns([plain]) == {}
    drafted = [Generation(2.0, 1.0, 10, 100, 5, tokens_per_forward=x) for x in (1.5, 3.0, 2.0)]
    assert drafting_columns(drafted, "lookup_") == {"lookup_tokens_per_forward": 2.0}


def test_clocked_work_tells_its_seconds():
    done: list[int] = []
    assert clocked(lambda: done.append(1))() >= 0
    assert done == [1]


def test_the_steady_rate_leaves_the_prompt_out():
    arrivals = Arrivals(moments=[(0.0, 0), (1.0, 4), (2.0, 10), (3.0, 14)])
    assert arrivals.steady_rate == 5
    assert Arrivals(moments=[(0.0, 0), (1.0, 4)]).steady_rate is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_any_family_is_timed_and_its_cache_counted(family):
    lm = make_lm(family)
    found = time_lm(lm, "Hello", 6, make_processor().tokenizer)
    heads, width = key_value_shape(lm.config)
    assert found.num_new_tokens == 6
    assert found.num_cached_tokens == 1 + 5 + 6 - 1  # the last token is not read
    assert found.cache_bytes_per_token == 2 * 2 * heads * width * 4  # keys and values of two layers in fp32
    assert 0 < found.seconds_to_first_sentence <= found.seconds


@torch.no_grad()
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_texts_at_once_are_timed_as_one_call(family):
    lm = make_lm(family)
    found = time_lm(lm, torch.tensor([[2, 10, 11], [2, 12, 13]]), 4)
    assert (found.num_new_tokens, found.batch_size, found.num_cached_positions) == (8, 2, 6)
    held = lm(torch.full((2, 6), 10), use_cache=True).past_key_values
    assert found.cache_bytes == cache_bytes(held)


def test_prompt_lookup_says_how_many_tokens_a_pass_brought():
    found = time_lm(make_lm("llama"), "the cat the cat the cat", 12, make_processor().tokenizer, num_copied=3)
    assert (found.tokens_per_forward or 0) >= 1
