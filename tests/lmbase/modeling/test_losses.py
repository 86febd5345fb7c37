"""The chunked loss is the naive one, in values and gradients."""

import pytest
import torch

from lmbase.modeling import losses
from lmbase.modeling.losses import close_token, signed_nats, token_nats, vocabulary_loss

M, D, V, CLOSED = 11, 6, 9, 2


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setitem(losses.CHUNK_ROWS, "cpu", 4)  # M is no multiple of it
    monkeypatch.setattr(losses, "SCORED_ROWS", 3)


def make_problem(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = scale * torch.randn(M, D, generator=generator)
    table = torch.randn(V, D, generator=generator)
    targets = torch.randint(3, V, (M,), generator=generator)
    closed_rows = torch.arange(M) % 3 == 0
    targets[1] = CLOSED  # where the end mark is open, it may be the target
    return hidden.requires_grad_(), table.requires_grad_(), targets, closed_rows


def naive_nats(hidden, table, targets, closed_rows):
    logits = hidden @ table.T
    logits = logits.masked_fill(closed_rows[:, None] & (torch.arange(V) == CLOSED), float("-inf"))
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("weights", [None, torch.arange(M) / 4], ids=["equal", "weighted"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_loss_and_gradients_are_the_naive_ones(gamma, weights):
    hidden, table, targets, closed = make_problem()
    nats = naive_nats(hidden, table, targets, closed)
    expected = ((1 - torch.exp(-nats)) ** gamma * nats * (1.0 if weights is None else weights)).sum()
    options = dict(closed_rows=closed, closed_id=CLOSED, focal_gamma=gamma, row_weights=weights)
    result = vocabulary_loss(hidden, table, targets, **options)
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(result.row_nats, nats)
    assert not result.row_nats.requires_grad
    # a factor, because a caller divides the sum by a count
    wanted = torch.autograd.grad(0.3 * expected, (hidden, table))
    torch.testing.assert_close(torch.autograd.grad(0.3 * result.loss, (hidden, table)), wanted)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_predictions_have_finite_gradients(gamma):
    """p rounds to 1, where (1 - p) ** (gamma - 1) has a pole for gamma < 1."""
    hidden, table, targets, closed = make_problem(scale=200.0)
    result = vocabulary_loss(hidden, table, targets, closed_rows=closed, closed_id=CLOSED, focal_gamma=gamma)
    assert all(g.isfinite().all() for g in torch.autograd.grad(result.loss, (hidden, table)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_F3_an_improbable_target_costs_what_its_logit_says(gamma, dtype):
    """Its probability is no number of fp32: the log of the softmax would stop at 87.3 nats."""
    hidden = torch.tensor([[200.0, 0.0], [88.0, 0.0], [3.0, 0.0], [1e4, 0.0]], dtype=dtype).requires_grad_()
    table, targets = torch.eye(3, 2, dtype=dtype).requires_grad_(), torch.tensor([1, 2, 1, 1])
    weights = torch.tensor([1.0, 2.0, 1.0, 0.5])
    expected = torch.nn.functional.cross_entropy(hidden.float() @ table.T.float(), targets, reduction="none")
    result = vocabulary_loss(hidden, table, targets, focal_gamma=gamma, row_weights=weights)
    torch.testing.assert_close(result.row_nats, expected)
    assert float(result.row_nats[0]) == 200
    with torch.no_grad():
        torch.testing.assert_close(vocabulary_loss(hidden, table, targets).row_nats, expected)
    focal = (1 - torch.exp(-expected)) ** gamma * expected * weights
    torch.testing.assert_close(result.loss, focal.sum())
    wanted = torch.autograd.grad(focal.sum(), (hidden, table))
    torch.testing.assert_close(torch.autograd.grad(result.loss, (hidden, table)), wanted, rtol=0.02, atol=1e-3)


def test_nats_of_each_target_with_their_gradient():
    hidden, table, targets, closed = make_problem()
    expected = naive_nats(hidden, table, targets, closed)
    nats = token_nats(hidden, table, targets, closed_rows=closed, closed_id=CLOSED)
    torch.testing.assert_close(nats, expected)
    open_rows = torch.zeros(M, dtype=torch.bool)
    torch.testing.assert_close(token_nats(hidden, table, targets), naive_nats(hidden, table, targets, open_rows))
    wanted = torch.autograd.grad(expected[3], (hidden, table))
    torch.testing.assert_close(torch.autograd.grad(nats[3], (hidden, table)), wanted)


@torch.no_grad()
def test_correct_counts_first_choices():
    hidden, table, targets, closed = make_problem()
    logits = close_token(hidden @ table.T, closed, CLOSED)
    result = vocabulary_loss(hidden, table, targets, closed_rows=closed, closed_id=CLOSED)
    assert torch.equal(result.row_correct, logits.argmax(-1) == targets)
    best = vocabulary_loss(hidden, table, logits.argmax(-1), closed_rows=closed, closed_id=CLOSED)
    assert best.row_correct.all()


def test_the_closed_token_has_probability_0_where_it_is_closed():
    hidden, table, _, closed = make_problem()
    probs = close_token(hidden @ table.T, closed, CLOSED).softmax(-1)
    assert (probs[closed, CLOSED] == 0).all()
    assert (probs[~closed, CLOSED] > 0).all()


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_parts_get_no_gradient(frozen):
    """A frozen table, or states that nothing trainable made."""
    inputs = [*make_problem()]
    inputs[frozen] = inputs[frozen].detach()
    hidden, table, targets, closed = inputs
    vocabulary_loss(hidden, table, targets, closed_rows=closed, closed_id=CLOSED).loss.backward()
    assert inputs[frozen].grad is None
    assert inputs[1 - frozen].grad.abs().sum() > 0


def test_bf16_autocast_is_close_and_keeps_the_parameters_dtype():
    hidden, table, targets, closed = make_problem()
    exact = vocabulary_loss(hidden, table, targets, closed_rows=closed, closed_id=CLOSED)
    with torch.autocast("cpu", torch.bfloat16):
        result = vocabulary_loss(hidden, table, targets, closed_rows=closed, closed_id=CLOSED)
    assert result.loss.dtype == torch.float32
    torch.testing.assert_close(result.loss, exact.loss, rtol=0.02, atol=0)
    assert [g.dtype for g in torch.autograd.grad(result.loss, (hidden, table))] == [torch.float32] * 2


def test_nothing_to_predict_costs_nothing():
    hidden, table, targets, closed = make_problem()
    result = vocabulary_loss(hidden[:0], table, targets[:0], closed_rows=closed[:0], closed_id=CLOSED)
    assert result.loss == 0
    assert result.row_nats.shape == (0,)
    result.loss.backward()
    assert table.grad.abs().sum() == 0


@pytest.mark.parametrize("num_rows", [0, 5, 256, 600])
def test_nats_without_gradients_are_the_same(num_rows):
    """Without gradients all chunks share one matrix."""
    generator = torch.Generator().manual_seed(0)
    hidden, table = (torch.randn(n, 8, generator=generator) for n in (num_rows, 50))
    targets = torch.randint(4, 50, (num_rows,), generator=generator)
    closed = torch.rand(num_rows, generator=generator) < 0.3
    expected = token_nats(hidden, table, targets, closed_rows=closed, closed_id=2)
    with torch.no_grad():
        found = token_nats(hidden, table, targets, closed_rows=closed, closed_id=2)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(torch.isinf(found), torch.isinf(expected))


def test_nats_without_gradients_take_states_of_another_dtype():
    """As autocast leaves them."""
    hidden, table, targets, _ = make_problem()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_nats(hidden.bfloat16(), table, targets)
    torch.testing.assert_close(found, token_nats(hidden, table, targets).detach(), rtol=0.05, atol=0.05)


def test_signs_say_which_targets_are_the_first_choice():
    generator = torch.Generator().manual_seed(3)
    hidden, table = torch.randn(40, 8, generator=generator), torch.randn(5, 8, generator=generator)
    closed = torch.arange(40) % 2 == 0
    choices = close_token(hidden @ table.T, closed, 1).argmax(-1)
    targets = torch.where(torch.arange(40) < 20, choices, (choices + 2) % 5)
    targets[closed & (targets == 1)] = 3
    nats = token_nats(hidden, table, targets, closed_rows=closed, closed_id=1)
    signed = signed_nats(hidden, table, targets, closed_rows=closed, closed_id=1)
    torch.testing.assert_close(signed.abs(), nats)
    assert torch.equal(signed.signbit(), targets == choices)
    certain = signed_nats(torch.tensor([[100.0]]), torch.tensor([[1.0], [-1.0]]), torch.tensor([0]))
    assert certain.signbit().all()  # also where it costs nothing
