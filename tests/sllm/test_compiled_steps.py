"""Compiled steps and caches of fixed size: what is read and written is what the model itself reads and writes."""

import copy
import itertools

import pytest
import torch
from tiny import CAP, MEMORY, SLLMS, make_opt, make_sllm, make_vae
from transformers import CompileConfig, GenerationConfig, LogitsProcessor, LogitsProcessorList

from lmbase.modeling import compiling
from lmbase.text.padding import pad_sentences, pad_tokens
from sllm import compiled_steps
from sllm.benchmarks.replaying import ReplayedSLLM
from sllm.compiled_steps import CompiledSteps

PAD = 1
# The steps as they are written; what torch.compile makes of them: tests/doors/test_kernels.py.
FIXED: dict = dict(cache_implementation="static", disable_compile=True)
PROMPTS = [[[10, 11, 12], [20, 21]], [[30, 31, 32, 33]], []]
TREE = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]


@pytest.fixture(autouse=True)
def few_positions(monkeypatch):
    """So that the trunk's cache is outgrown, and the decoder's has nothing to spare."""
    monkeypatch.setattr(compiled_steps, "FEWEST_POSITIONS", 4)
    monkeypatch.setattr(compiled_steps, "PLACES", 1)


@pytest.fixture(scope="module", params=sorted(SLLMS))
def model(request):
    return SLLMS[request.param]().double()


@pytest.fixture(scope="module", params=["block", "residual"])
def drafting(request):
    after = request.param == "residual"
    options = MEMORY | dict(num_future_tokens=4, draft_head_kind=request.param, draft_transitions=after)
    return make_sllm(**options, stop_bias=-4.0).double()


def same(model, prompts, fixed=FIXED, **options):
    """Sentences of both ways, and what drafting brought."""
    ids = pad_sentences(prompts, PAD).input_ids
    ways = [model.generate(ids, **options), model.generate(ids, **options, **fixed)]
    for one, other in zip(ways[0].sequences, ways[1].sequences, strict=True):
        assert one.tolist() == other.tolist()
    assert ways[0].sentence_lengths == ways[1].sentence_lengths
    assert ways[0].finish_reason == ways[1].finish_reason
    assert ways[0].statistics == ways[1].statistics
    return ways[1]


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one", "three"])
def test_texts_are_the_same(model, prompts):
    output = same(model, prompts, max_new_tokens=60, min_new_tokens=60, overflow="slide")
    assert max(map(len, output.sentence_lengths)) > 8
    sampled = same(model, prompts, max_new_tokens=30, do_sample=True, temperature=1.3, seed=4)
    assert sampled.sequences.shape != output.sequences.shape or not torch.equal(sampled.sequences, output.sequences)


def test_a_cut_off_sentence_and_the_last_position(model):
    for text in ("It rained. Nobody ca", "a", "One. Two. Three. Four. " * 6):
        whole, fixed = (model.generate(text=text, max_new_tokens=40, **options) for options in ({}, FIXED))
        assert whole.texts == fixed.texts
        assert whole.finish_reason == fixed.finish_reason


@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one", "three"])
def test_drafting_is_the_same(drafting, prompts, tree):
    for num_draft in (1, 2, 4):
        greedy = dict(max_new_tokens=40, min_new_tokens=40, num_draft=num_draft, tree=tree)
        same(drafting, prompts, **greedy)
    same(drafting, prompts, **greedy, do_sample=True, seed=1)
    ids = pad_sentences(prompts, PAD).input_ids
    texts = [drafting.generate(ids, max_new_tokens=40, tree=tree, **way).sequences.tolist() for way in ({}, FIXED)]
    assert texts[0] == texts[1]  # `auto` times its passes, so it may have drafted elsewhere
    same(drafting, prompts, max_new_tokens=40, num_draft=1, prompt_lookup_num_tokens=3)


def test_a_finished_sentence_takes_no_room_while_others_go_on():
    """One text ends at the longest length, with guesses accepted behind its end, the other accepts none."""
    options = dict(num_future_tokens=4, draft_head_kind="residual", max_sentences=16)
    replayed = ReplayedSLLM.graft(make_vae(processor=False), make_opt(), **options).eval()
    for _ in range(2):
        replayed.replay([CAP], itertools.cycle([3, 0]))
        ids = torch.zeros(2, 0, 0, dtype=torch.long)
        output = replayed.generate(ids, max_new_tokens=3 * CAP, min_new_tokens=3 * CAP, num_draft=4, **FIXED)
        assert output.sentence_lengths == [[CAP] * 3] * 2


def test_a_second_call_and_another_model_start_afresh(model):
    first = model.generate(text="It rained. Nobody came.", max_new_tokens=30, **FIXED)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.autoencoder.embed_tokens.weight.mul_(-1)
    other = twin.generate(text="It rained. Nobody came.", max_new_tokens=30, **FIXED)
    assert other.texts == twin.generate(text="It rained. Nobody came.", max_new_tokens=30).texts != first.texts
    assert model.generate(text="It rained. Nobody came.", max_new_tokens=30, **FIXED).texts == first.texts


def test_calls_do_not_disturb_each_other(model):
    """One within another, one under inference_mode before one without, one after weights that were no numbers."""
    prompt = dict(text="It rained. Nobody came.", max_new_tokens=20, min_new_tokens=20)
    expected = model.generate(**prompt).texts

    class Interrupting(LogitsProcessor):
        def __call__(self, input_ids, scores):
            assert model.generate(text="Why? Because.", max_new_tokens=4, **FIXED).texts
            return scores

    assert model.generate(**prompt, logits_processor=LogitsProcessorList([Interrupting()]), **FIXED).texts == expected
    twin = copy.deepcopy(model)
    with torch.inference_mode():
        assert twin.generate(**prompt, **FIXED).texts == expected
    assert twin.generate(**prompt, **FIXED).texts == expected
    weights = {name: weight.clone() for name, weight in twin.state_dict().items()}
    with torch.no_grad():
        twin.trunk.decoder.layers[0].fc1.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits are NaN"):
        twin.generate(**prompt, **FIXED)
    twin.load_state_dict(weights)
    assert twin.generate(**prompt, **FIXED).texts == expected


def test_the_trunks_cache_doubles_also_beyond_its_positions():
    """Beside a text that is over another goes on: more sentences than either may have."""
    model = make_sllm()
    steps = CompiledSteps(model, GenerationConfig(**FIXED), num_texts=2, num_rows=1, num_tokens=8, num_sentences=2)
    batch = pad_sentences([[], []], PAD)
    with torch.no_grad():
        state = steps.fix(model.prefill(batch.input_ids, batch.attention_mask, batch.sentence_mask))
        capacities = set()
        for number in range(50):
            first = number < 25
            steps.step(torch.tensor([[9], [9]]), torch.tensor([[first], [not first]]), state)
            capacities.add(state.attention_mask.shape[1])
    assert len(capacities) <= 5
    assert state.attention_mask.sum(1).tolist() == [26, 26]


@pytest.mark.parametrize("opt", [{}, dict(attn_implementation="eager"), dict(word_embed_proj_dim=8)])
def test_other_trunks_and_bf16(opt):
    model = make_sllm(vae=dict(hidden_size=opt.get("word_embed_proj_dim", 16)), opt=opt, **MEMORY)
    same(model.double(), PROMPTS, max_new_tokens=40, min_new_tokens=40)
    model.to(torch.bfloat16).generate(text="It rained. No", max_new_tokens=40, min_new_tokens=40, **FIXED)


def test_states_are_the_same(model):
    """Sentence after sentence, some texts over early."""
    batch = pad_sentences(PROMPTS, PAD)
    ours = model.prefill(batch.input_ids, batch.attention_mask, batch.sentence_mask)
    steps = CompiledSteps(model, GenerationConfig(**FIXED), num_texts=3, num_rows=1, num_tokens=8, num_sentences=2)
    fixed = steps.fix(model.prefill(batch.input_ids, batch.attention_mask, batch.sentence_mask))
    alive = torch.tensor([[True], [True], [True]])
    for number, length in enumerate((3, 1, 12, 5, 2)):
        ids, mask = pad_tokens([[40 + number] * length, [50] * max(1, length - 2), [60]], PAD)
        alive = alive & torch.tensor([[True], [number < 2], [number < 3]])
        with torch.no_grad():
            model.step(ids, mask & alive, ours)
            steps.step(ids, mask & alive, fixed)
        for name in ("states_mask", "tokens_mask"):
            assert torch.equal(getattr(ours, name), getattr(fixed, name))
        assert torch.equal(ours.attention_mask, fixed.attention_mask[:, : ours.attention_mask.shape[1]])
        assert not fixed.attention_mask[:, ours.attention_mask.shape[1] :].any()
        going_on = alive[:, 0]
        torch.testing.assert_close(ours.states[going_on], fixed.states[going_on])
        seen = ours.tokens_mask & alive
        torch.testing.assert_close(ours.tokens[seen], fixed.tokens[seen])
    assert fixed.past_key_values.get_seq_length() == ours.past_key_values.get_seq_length()


def test_what_is_not_known_is_refused():
    model = make_sllm()
    with pytest.raises(ValueError, match=r"cache_implementation='sliding'.*static"):
        model.generate(text="a", max_new_tokens=2, cache_implementation="sliding")
    model.config.trunk._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="needs attn_implementation"):
        model.generate(text="a", max_new_tokens=2, cache_implementation="static")


@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_each_step_is_one_graph(tree):
    """torch.compile captures it whole, and what it captured does the same."""
    whole = CompileConfig(backend="eager", fullgraph=True, mode=None)  # type: ignore[arg-type]
    captured = dict(cache_implementation="static", compile_config=whole)
    options = MEMORY | dict(num_future_tokens=4, draft_head_kind="residual", draft_transitions=True)
    model = make_sllm(**options, stop_bias=-4.0).double()
    for num_draft in (1, 4):
        same(model, PROMPTS, captured, max_new_tokens=30, min_new_tokens=30, num_draft=num_draft, tree=tree)
    assert compiled_steps._write_rows in {function for function, _ in compiling._known}
