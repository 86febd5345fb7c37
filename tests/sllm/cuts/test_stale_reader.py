"""Costs of tokens by the age of the state: those of the pieces that the reader is trained on, and they fall."""

import numpy as np
import pytest
import torch

from lmbase.modeling.pretrained import load_lm
from sllm.cuts.stale_reader import DocumentCosts, StaleReader, train_reader

IDS = np.tile(np.arange(3, 15), 20).astype(np.int32)  # after each token one other


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    lm = load_lm("random:tiny", vocab_size=20, max_positions=32, seed=0)
    return StaleReader(lm, 12, tuned=True)


def test_costs_are_those_of_the_loss(reader):
    """A window read as pieces of 5, 7 and 4 tokens, and the same pieces asked for one by one."""
    ids = IDS[:16]
    begins = torch.zeros(1, 16, dtype=torch.bool)
    begins[0, [5, 12]] = True
    of_lm = DocumentCosts(reader, ids, 32, 12)
    rows = of_lm.of([0, 5, 12])
    expected = (rows[0, :5].sum() + rows[1, :7].sum() + rows[2, :4].sum()) / 16
    tuned, reader.tuned = reader.tuned, False
    loss = reader.loss(torch.from_numpy(ids[None]).long(), torch.ones(1, 16, dtype=torch.bool), begins)
    reader.tuned = tuned
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert (rows[2, 4:] == 0).all()


def test_a_state_knows_what_stands_before_it_and_no_more(reader):
    """What follows a piece's tokens changes nothing, nor does a window's place."""
    whole, part = DocumentCosts(reader, IDS[:24], 32, 8), DocumentCosts(reader, IDS[:20], 32, 8)
    np.testing.assert_allclose(whole.of([3, 9]), part.of([3, 9]), atol=1e-5)
    other = IDS[:24].copy()
    other[2] = 19
    assert not np.allclose(DocumentCosts(reader, other, 32, 8).of([9]), whole.of([9]), atol=1e-3)


def test_it_learns(reader):
    losses = [loss for _, loss in train_reader(reader, [IDS], 32, 4_000, 0)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("steps", [2, 9, 10, 11])
def test_it_learns_for_any_number_of_steps(steps):
    lm = load_lm("random:tiny", vocab_size=20, max_positions=32, seed=0)
    per_step = 8 * 240 // 8  # tokens: eight windows of the text, which has eight
    assert len(list(train_reader(StaleReader(lm, 12, tuned=True), [IDS], 32, steps * per_step, 0))) == steps


def test_a_language_model_that_is_given_stays(reader):
    lm = load_lm("random:tiny", vocab_size=20, max_positions=32, seed=0)
    kept = StaleReader(lm, 12, tuned=False)
    before = {name: weight.clone() for name, weight in lm.named_parameters()}
    list(train_reader(kept, [IDS], 32, 500, 0))
    assert all((before[name] == weight).all() for name, weight in lm.named_parameters())
