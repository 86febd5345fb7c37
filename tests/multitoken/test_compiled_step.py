"""The compiled step and its cache of fixed size: the text is what the model itself writes."""

import pytest
import torch
from tiny import make_lm, make_mtp
from transformers import CompileConfig

from multitoken import compiled_step
from multitoken.benchmarks.replaying import ReplayedLM

# The step as it is written; what torch.compile makes of it is asked at the end.
FIXED: dict = dict(cache_implementation="static", disable_compile=True)
PROMPTS = torch.tensor([[1, 1, 2, 40, 41], [2, 50, 51, 52, 53]])
TREE = [(0,), (1,), (0, 0), (1, 0)]


@pytest.fixture(
    scope="module",
    params=[{}, dict(head_kind="causal"), dict(head_kind="anticausal"), dict(head_kind="linear")],
    ids=["parallel", "causal", "anticausal", "linear"],
)
def model(request):
    return make_mtp(**request.param).double()


@pytest.mark.parametrize("prompts", [PROMPTS[1:], PROMPTS], ids=["one", "two"])
def test_texts_are_the_same(model, prompts):
    """Until the limit, and until positions are used up."""
    for limit in (14, 60):
        ways: list[dict] = [dict(num_draft=1), dict(num_draft=3), dict(num_draft=3, tree=TREE)]
        ways += [dict(num_draft=1, prompt_lookup_num_tokens=3), dict(num_draft=3, do_sample=True, seed=2)]
        for way in ways:
            options = way | dict(max_new_tokens=limit, min_new_tokens=limit)
            plain, found = model.generate(prompts, **options), model.generate(prompts, **options, **FIXED)
            assert found.sequences.tolist() == plain.sequences.tolist()
            assert found.finish_reason == plain.finish_reason
            assert found.statistics == plain.statistics
    automatic = model.generate(prompts, max_new_tokens=20, **FIXED)
    assert automatic.sequences.tolist() == model.generate(prompts, max_new_tokens=20, num_draft=1).sequences.tolist()


def test_what_was_accepted_behind_an_end_takes_no_room(monkeypatch):
    """All guesses of one text come true until it ends, none of the other's."""
    monkeypatch.setattr(compiled_step, "PLACES", 1)
    replayed = ReplayedLM(make_mtp(num_future_tokens=4).config).eval()
    for limit in range(9, 13):
        replayed.replay([3, 0])
        found = replayed.generate(PROMPTS, max_new_tokens=limit, min_new_tokens=limit, num_draft=4, **FIXED)
        assert found.num_new_tokens == [limit] * 2
        assert found.statistics.tokens_per_forward > 1.2


@pytest.mark.parametrize("kind", ["parallel", "anticausal"])
def test_the_step_is_one_graph(kind):
    whole = CompileConfig(backend="eager", fullgraph=True, mode=None)  # type: ignore[arg-type]
    model = make_mtp(head_kind=kind).double()
    for num_draft in (1, 3):
        options = dict(max_new_tokens=14, min_new_tokens=14, num_draft=num_draft)
        found = model.generate(PROMPTS, **options, cache_implementation="static", compile_config=whole)
        assert found.sequences.tolist() == model.generate(PROMPTS, **options).sequences.tolist()


@pytest.mark.parametrize("shape", ["opt", "gpt2", "qwen3"])
def test_one_text_is_read_by_a_twin(shape):
    """As torch.compile captures it, whole; weights may change between calls."""
    whole = CompileConfig(backend="eager", fullgraph=True, mode=None)  # type: ignore[arg-type]
    static = dict(cache_implementation="static", compile_config=whole)
    model = make_mtp(lm=make_lm(shape, num_hidden_layers=2))
    prompt, options = PROMPTS[1:], dict(max_new_tokens=8, min_new_tokens=8, num_draft=1)
    for _ in range(2):
        found = model.generate(prompt, **options, **static)
        assert found.sequences.tolist() == model.generate(prompt, **options).sequences.tolist()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
