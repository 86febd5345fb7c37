"""Shares of a step, made ahead: all items once, their targets and tokens counted."""

from dataclasses import replace

import numpy as np
import pytest
from accelerate import Accelerator
from toy_training import LENGTHS, ToyItems, ToyModel, toy_config, toy_data

from lmbase.training.feed import StepFeed


def feed(items, **keys):
    return StepFeed(ToyModel(), toy_data(items), toy_config(**keys), Accelerator(cpu=True))


def test_a_steps_micro_batches_hold_its_items_the_longest_first():
    made = feed(ToyItems(), micro_batch_size=3)
    for step, prepared in enumerate(made.steps(2, 5), start=2):
        lengths = LENGTHS[made.order.items(step)]
        assert [len(batch["ids"]) for batch in prepared.batches] == [3, 3, 2]
        assert [row for batch in prepared.batches for row in (batch["ids"] > 0).sum(1)] == sorted(lengths, reverse=True)
        assert prepared.tokens == lengths.sum()
        assert prepared.counts == {"token": (lengths - 1).sum(), "size": 8}
    assert step == 4


def test_one_step_is_made_ahead_and_none_behind_the_last():
    asked: list[np.ndarray] = []

    def batch(items):
        asked.append(items)
        return ToyItems().batch(items)

    steps = feed(ToyItems(batch=batch)).steps(0, 3)
    assert not asked
    assert len([next(steps), next(steps), next(steps)]) == 3
    assert next(steps, None) is None
    assert len(asked) == 3
    assert list(feed(ToyItems(batch=batch)).steps(3, 3)) == []
    assert len(asked) == 3


def test_without_items_nothing_begins():
    with pytest.raises(ValueError, match="no training items"):
        feed(ToyItems(num_items=0))


def test_a_batch_is_changed_by_its_items_and_step_however_it_is_shared_out():
    def told(step, **keys):
        seen = []

        def change(batch, keys, step):
            seen.append([(int(key), step) for key in keys])
            return batch

        data = replace(toy_data(ToyItems()), change=change)
        (prepared,) = StepFeed(ToyModel(), data, toy_config(**keys), Accelerator(cpu=True)).steps(step, step + 1)
        return {
            int(item): found
            for items, one in zip(prepared.items, seen, strict=True)
            for item, found in zip(items, one, strict=True)
        }

    assert told(3) == told(3, micro_batch_size=3)
    assert all(step == 3 for _, step in told(3).values())
    assert len({key for key, _ in told(3).values()}) == len(told(3))
    assert not {key for key, _ in told(3).values()} & {key for key, _ in told(4).values()}
