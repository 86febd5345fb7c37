"""A teacher's share in the loss is the plain formula, in values and gradients."""

import pytest
import torch
from tiny import make_lm

from lmbase.modeling import losses
from lmbase.modeling.distillation import ExactTeacher, OnlineTeacher, SparseTeacher, weights_hash
from lmbase.modeling.kept_window import KeptWindow
from lmbase.modeling.losses import taught_loss, vocabulary_loss

M, D, V, K, CLOSED = 11, 6, 12, 4, 2
WEIGHTS = torch.tensor([0.5, 0.0, 1.0] * 4)[:M]  # the teacher says nothing of every third row


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setitem(losses.CHUNK_ROWS, "cpu", 4)  # M is no multiple of it
    monkeypatch.setitem(losses.PART_ROWS, "cpu", 3)


def make_problem(known=V) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = [torch.randn(M, D, generator=generator), torch.randn(V, D, generator=generator)]
    teacher = [torch.randn(M, D + 1, generator=generator), torch.randn(known, D + 1, generator=generator)]
    targets = torch.randint(3, V, (M,), generator=generator)
    return [tensor.requires_grad_() for tensor in student], teacher, targets


def sparse(hidden, table, dtype=torch.float32):
    log_probs, ids = (hidden @ table.T).log_softmax(-1).topk(K)
    return SparseTeacher(ids, log_probs.to(dtype), WEIGHTS)


def buckets(probs, ids):
    """(M, V) -> (M, K + 1), the last one all that is not kept."""
    kept = probs.gather(-1, ids)
    others = torch.ones_like(probs).scatter(-1, ids, 0.0)
    return torch.cat([kept, (probs * others).sum(-1, keepdim=True)], -1)


def without(probs, closed):
    if not closed:
        return probs
    probs = probs * (torch.arange(probs.shape[1]) != CLOSED)
    return probs / probs.sum(-1, keepdim=True)


def plain(student, teacher, targets, closed, ids=None, row_weights=1.0):
    """The loss in fp64: (1 - w) CE + w KL, and KL."""
    hidden, table = (tensor.double() for tensor in student)
    logits = hidden @ table.T
    said = torch.zeros(M, V, dtype=torch.float64)
    said[:, : len(teacher[1])] = (teacher[0].double() @ teacher[1].double().T).softmax(-1)
    q, p = without(logits.softmax(-1), closed), said
    if ids is None:
        p = without(p, closed)
    else:  # of a token in the bucket it is not known what the teacher gave it
        q, p = buckets(q, ids), buckets(p, ids)
        p = p * torch.cat([(ids != CLOSED) | (not closed), torch.ones(M, 1)], -1)
        p = p / p.sum(-1, keepdim=True)
    divergence = (torch.special.xlogy(p, p) - p * q.clamp(min=1e-300).log()).sum(-1) * (WEIGHTS > 0)
    if closed:
        logits = logits.masked_fill((torch.arange(M) % 3 == 0)[:, None] & (torch.arange(V) == CLOSED), float("-inf"))
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return (row_weights * ((1 - WEIGHTS) * nats + WEIGHTS * divergence)).sum(), divergence


@pytest.mark.parametrize("row_weights", [None, torch.arange(M) / 4], ids=["equal", "weighted"])
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("kind", ["exact", "exact, fewer ids", "sparse", "sparse, all ids"])
def test_loss_and_gradients_are_the_plain_formulas(kind, closed, row_weights, monkeypatch):
    if kind == "sparse, all ids":
        monkeypatch.setattr(__name__ + ".K", V)
    student, said, targets = make_problem(V - 2 if kind == "exact, fewer ids" else V)
    kept = sparse(said[0], said[1]) if kind.startswith("sparse") else None
    teacher, ids = kept or ExactTeacher(said[0], said[1], WEIGHTS), kept.ids if kept else None
    expected, divergence = plain(student, said, targets, closed, ids, 1.0 if row_weights is None else row_weights)
    options: dict = dict(closed_rows=torch.arange(M) % 3 == 0, closed_id=CLOSED) if closed else {}
    result = taught_loss(student[0], student[1], targets, teacher, row_weights=row_weights, **options)
    torch.testing.assert_close(result.loss, expected.float())
    torch.testing.assert_close(result.row_divergence, divergence.float(), atol=1e-6, rtol=1e-5)
    wanted = torch.autograd.grad(0.3 * expected, student)
    torch.testing.assert_close(torch.autograd.grad(0.3 * result.loss, student), wanted, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        again = taught_loss(student[0], student[1], targets, teacher, row_weights=row_weights, **options)
    torch.testing.assert_close(again.loss, result.loss.detach())


def test_rows_of_a_cache_without_a_teacher_are_plain_cross_entropy():
    student, said, targets = make_problem()
    full = sparse(said[0], said[1], dtype=torch.float16)
    ids, log_probs = full.ids.int(), full.log_probs
    ids[5], log_probs[5] = 0, float("-inf")
    teacher = SparseTeacher.of_rows(ids, log_probs, 0.7)
    assert teacher.weights.tolist() == pytest.approx([0.7] * 5 + [0.0] + [0.7] * 5)
    result = taught_loss(student[0], student[1], targets, teacher)
    only = SparseTeacher(ids[5:6], log_probs[5:6], teacher.weights[5:6])
    alone = taught_loss(student[0][5:6], student[1], targets[5:6], only)
    nats = vocabulary_loss(student[0][5:6], student[1], targets[5:6])
    assert float(result.row_divergence[5]) == 0
    torch.testing.assert_close(torch.autograd.grad(alone.loss, student), torch.autograd.grad(nats.loss, student))


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("exact", [True, False])
def test_certain_students_and_teachers_have_finite_losses_and_gradients(exact, closed):
    """A student without any probability where the teacher has all of it, and the other way round."""
    student, said, targets = make_problem()
    student = [(300 * student[0].detach()).requires_grad_(), student[1]]
    said = [300 * said[0], said[1]]
    teacher = ExactTeacher(said[0], said[1], WEIGHTS) if exact else sparse(said[0], said[1], dtype=torch.float16)
    options: dict = dict(closed_rows=torch.zeros(M, dtype=torch.bool), closed_id=CLOSED) if closed else {}
    result = taught_loss(student[0], student[1], targets, teacher, **options)
    assert result.loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(result.loss, student))


def test_a_student_that_is_its_teacher_has_nothing_to_learn_of_it():
    student, _, targets = make_problem()
    same = [tensor.detach().clone() for tensor in student]
    for teacher in (ExactTeacher(same[0], same[1], torch.ones(M)), sparse(same[0], same[1])):
        teacher.weights = torch.ones(M)
        result = taught_loss(student[0], student[1], targets, teacher)
        assert float(result.row_divergence.abs().max()) < 1e-5
        assert max(float(g.abs().max()) for g in torch.autograd.grad(result.loss, student)) < 1e-5


def test_an_online_teacher_gives_its_most_probable_tokens_and_is_never_copied():
    import copy

    lm = make_lm("llama")
    teacher = OnlineTeacher(lm, num_ids=250)
    input_ids = torch.randint(4, 250, (2, 7))
    lengths = torch.tensor([[7], [5]])
    asked = torch.arange(8) < lengths
    ids, log_probs = teacher.most_probable(input_ids, torch.arange(7) < lengths, asked, 5)
    opened = torch.cat([torch.full((2, 1), lm.config.bos_token_id), input_ids], 1)
    logits = lm(opened).logits[asked][:, :250]
    expected = logits.log_softmax(-1).topk(5)
    assert torch.equal(ids, expected.indices)
    torch.testing.assert_close(log_probs, expected.values)
    assert copy.deepcopy(teacher) is teacher


def test_a_teacher_that_keeps_a_window_is_read_through_it_and_is_another_teacher():
    lm = make_lm("llama")
    input_ids, asked = torch.randint(4, 250, (1, 9)), torch.tensor([[False] * 8 + [True, False]])
    whole, kept = (OnlineTeacher(lm, 250, keep) for keep in (None, KeptWindow(3)))
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    read = (
        whole.of_rows(input_ids, mask, asked, torch.ones(1)).hidden,
        kept.of_rows(input_ids, mask, asked, torch.ones(1)).hidden,
    )
    assert not torch.allclose(*read, atol=1e-3)
    before = weights_hash(lm)
    lm.config.keep_window = 3
    assert weights_hash(lm) != before
