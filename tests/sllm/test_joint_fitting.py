"""Where the joints of a graft by own layers begin: by least squares, as near to the language model as they can be."""

import pytest
import torch
from tiny import make_own, make_sllm, pad

from sllm.evaluation.audit import audit_sentences
from sllm.joint_fitting import LeastSquares, _logistic, fit_flags, fit_joints


def batches(number: int = 40, seed: int = 0):
    """Texts of random sentences of 1 to 6 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, size: int) -> list[int]:
        return torch.randint(low, high, (size,), generator=generator).tolist()

    for _ in range(number):
        texts = [[draw(10, 90, length) for length in draw(1, 7, 12)] for _ in range(2)]
        yield {**pad(texts), "continues": torch.tensor([True, False])}


def test_a_planted_map_is_found_and_its_distance_is_the_true_one():
    generator = torch.Generator().manual_seed(1)
    planted = torch.randn(5, 3, generator=generator)
    features = torch.randn(4000, 5, generator=generator)
    targets = features @ planted + 5 + 0.1 * torch.randn(4000, 3, generator=generator)
    rare = torch.zeros(4000, 1)
    rare[7] = 1.0
    features = torch.cat([features, torch.ones(4000, 1), rare, torch.zeros(4000, 1)], dim=1)
    targets[7] += 1.0
    squares = LeastSquares()
    for part in range(0, 4000, 1000):
        squares.add(features[part : part + 1000], targets[part : part + 1000])
    found = squares.solve()
    assert torch.allclose(found[:5].float(), planted, atol=0.1)
    assert found[6].abs().max() < 0.1  # seen once
    assert not found[7].any()
    true = (((features.double() @ found - targets) / targets.norm(dim=1, keepdim=True)) ** 2).sum()
    assert squares.apart(found) == pytest.approx(true.item(), rel=1e-3)


@pytest.mark.parametrize(("shape", "use_trunk"), [("llama", True), ("gpt2", True), ("opt-350m", False)])
def test_a_fit_brings_states_nearer_and_says_by_how_much(shape, use_trunk):
    model = make_own(shape, use_trunk=use_trunk)
    fit = fit_joints(model, batches())
    again = fit_joints(model, batches())
    assert fit.after < 0.7 * fit.before
    assert again.before == pytest.approx(fit.after, rel=0.02)
    assert again.num_tokens == fit.num_tokens > 2000
    audit_sentences(model, [[10, 11, 12], [13], [14, 15], [16, 17, 18, 19]], opening=3).raise_if_failed("it")


def test_without_a_trunk_nothing_of_it_is_read():
    model = make_own(use_trunk=False)
    batch = pad([[[10, 11, 12], [13, 14], [15]]])
    with torch.no_grad():
        before = model.nats(**batch).token
        for block in model.own.between(model.trunk):
            for weight in block.parameters():
                weight.fill_(torch.nan)
        assert torch.equal(model.nats(**batch).token, before)


@torch.no_grad()
@pytest.mark.parametrize(("end_flag", "bf16"), [(True, False), (True, True), (False, False)])
def test_flags_know_how_often_sentences_and_texts_end(end_flag, bf16):
    model = make_own(end_flag=end_flag)
    before = torch.stack([model.nats(**batch).token.sum() for batch in batches(20)]).sum()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        fit_flags(model, batches(20))
    after = torch.stack([model.nats(**batch).token.sum() for batch in batches(20)]).sum()
    assert after < 0.99 * before if end_flag else after == before
    rate = model.stop_head.bias.sigmoid().item()  # half of the texts end, at one of 13 states
    assert rate == pytest.approx(1 / 26, rel=0.1)


@torch.no_grad()
def test_a_flag_expects_no_end_that_is_told():
    model = make_own(told_ends=True)
    fit_flags(model, batches(20))
    going_on = [{**batch, "continues": torch.tensor([True, True])} for batch in batches(20)]
    fitted = sum(float(model.nats(**batch).token.sum()) for batch in going_on)
    assert model.end_head is not None
    model.end_head.bias.fill_(-50.0)  # no end at all
    never = sum(float(model.nats(**batch).token.sum()) for batch in going_on)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in going_on)
    assert 0 <= fitted - never < 0.03 * tokens


def test_a_fit_that_makes_it_worse_is_not_kept(monkeypatch):
    model = make_own()
    before = {name: weight.clone() for name, weight in model.own.state_dict().items()}
    monkeypatch.setattr(LeastSquares, "solve", lambda squares: 9 * torch.ones_like(squares.products))
    fit = fit_joints(model, batches())
    assert fit.after > fit.before
    assert all(torch.equal(weight, before[name]) for name, weight in model.own.state_dict().items())


def test_sentences_of_one_kind_leave_the_flag_within_bounds():
    model = make_own()
    fit_flags(model, [{**pad([[[10, 11]]]), "continues": torch.tensor([True])}])
    assert model.end_head.bias.abs() <= 10


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_a_flag_that_states_tell_for_sure_is_found_without_overshooting(scale):
    generator = torch.Generator().manual_seed(3)
    x = scale * torch.randn(400, 20, generator=generator)
    y = (x[:, 0] > 0.5 * scale).float()
    x[:, 0] += 3 * scale * y
    weight = _logistic(x, y)
    assert torch.nn.functional.binary_cross_entropy_with_logits(x @ weight[:-1] + weight[-1], y) < 0.05
    assert (x @ weight[:-1]).abs().max() < 100


def test_what_cannot_be_fitted_is_told():
    with pytest.raises(ValueError, match="sentence ends are too few"):
        fit_joints(make_own(), batches(2))
    with pytest.raises(ValueError, match="has an autoencoder"):
        fit_joints(make_sllm(), batches())
