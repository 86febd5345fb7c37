"""The items of a step follow from its number alone, and each epoch has every item once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbase.training.batches import BatchOrder, micro_batches


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 5))
def test_every_epoch_has_every_item_once(num_items, batch_size, seed):
    order = BatchOrder(num_items, batch_size, seed)
    steps = -(-3 * num_items // batch_size)
    stream = np.concatenate([order.items(step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(stream[epoch * num_items : (epoch + 1) * num_items]) == list(range(num_items))


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 30))
def test_a_step_does_not_depend_on_the_steps_before_it(num_items, batch_size, step):
    walked = BatchOrder(num_items, batch_size, seed=1)
    for earlier in range(step):
        walked.items(earlier)
    assert np.array_equal(walked.items(step), BatchOrder(num_items, batch_size, seed=1).items(step))


def test_epochs_and_seeds_differ():
    def epoch(seed, step):
        return BatchOrder(100, 100, seed).items(step).tolist()

    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)


@given(st.integers(1, 4), st.integers(1, 8), st.none() | st.integers(1, 10), st.booleans())
def test_processes_share_a_step_evenly_and_completely(world_size, per_process, micro_batch_size, sort):
    items = np.random.default_rng(0).permutation(100)[: world_size * per_process]
    lengths = np.random.default_rng(1).integers(1, 50, 100) if sort else None
    shares = [micro_batches(items, lengths, micro_batch_size, rank, world_size) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(shares[0])}  # FSDP needs equally many forward passes
    assert {len(np.concatenate(share)) for share in shares} == {per_process}
    assert sorted(np.concatenate([part for share in shares for part in share])) == sorted(items)
    assert all(len(part) <= (micro_batch_size or per_process) for share in shares for part in share)


def test_micro_batches_have_like_lengths_the_longest_first():
    lengths = np.array([5, 1, 9, 2, 8, 1])
    parts = micro_batches(np.arange(6), lengths, 2)
    assert [sorted(lengths[part]) for part in parts] == [[8, 9], [2, 5], [1, 1]]


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="no training items"):
        BatchOrder(0, 4, 0)
    with pytest.raises(ValueError, match="batch_size = 0"):
        BatchOrder(4, 0, 0)


def test_uneven_shares_have_as_many_micro_batches():
    shares = [micro_batches(np.arange(6), None, 1, rank, 4) for rank in range(4)]
    assert [[part.tolist() for part in parts] for parts in shares] == [[[0], [4]], [[1], [5]], [[2], []], [[3], []]]
    assert [part.tolist() for part in micro_batches(np.arange(1), None, None, 1, 2)] == [[]]
