"""Writing with a graft by own layers: the same text alone and beside others, drafted or not, and as scores say."""

import pytest
import torch
from tiny import make_own, pad

from sllm.reading import lm_logits

TEXTS = [
    [[10, 11, 12], [13]],
    [[14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25], [26, 27], [28], [29, 30, 31, 32]] * 3,
    [],
    [[40] * 12] * 9,
]


def written(model, texts, **settings):
    batch = pad(texts)
    output = model.generate(batch["input_ids"], batch["attention_mask"], max_new_tokens=80, **settings)
    new = [row[mask].tolist() for row, mask in zip(output.sequences, output.attention_mask, strict=True)]
    return list(zip(new, output.sentence_lengths, output.finish_reason, strict=True)), output


@pytest.mark.parametrize("shape", ["llama", "gpt2", "opt"])
def test_a_text_is_the_same_beside_others(shape):
    model = make_own(shape, stop_bias=-30.0).double()
    together, output = written(model, TEXTS)
    assert max(len(ids) for ids, *_ in together) > 100
    assert min(output.num_new_tokens) > 40
    for text, found in zip(TEXTS, together, strict=True):
        assert written(model, [text])[0] == [found]


def test_sampling_does_not_depend_on_neighbours():
    model = make_own(stop_bias=-4.0).double()
    together, _ = written(model, TEXTS, do_sample=True, seed=3)
    for number, text in enumerate(TEXTS):
        assert written(model, [text], do_sample=True, seed=[(3, number)])[0] == together[number : number + 1]


def test_drafts_do_not_change_the_text():
    model = make_own(stop_bias=-30.0, num_future_tokens=3, draft_head_kind="residual").double()
    plain, _ = written(model, TEXTS, num_draft=1)
    for drafts in (dict(num_draft=3), dict(prompt_lookup_num_tokens=4), dict(tree=[[0], [1], [0, 0], [0, 1]])):
        assert written(model, TEXTS, **drafts)[0] == plain, drafts


@pytest.mark.parametrize("options", [dict(end_flag=True), dict(end_flag=False), dict(use_trunk=False)])
def test_what_is_written_is_what_scores_say_is_likeliest(options):
    model = make_own(stop_bias=-30.0, **options).double()
    (found, lengths, _) = written(model, [TEXTS[0]])[0][0]
    sentences, at = [], 0
    for length in lengths[:8]:
        sentences.append(found[at : at + length])
        at += length
    with torch.no_grad():
        nats = model.nats(**pad([sentences])).token
        for k in range(2, len(sentences) - 1):
            for t in range(len(sentences[k])):
                other = [list(sentence) for sentence in sentences]
                other[k][t] = 99 if other[k][t] != 99 else 98
                assert model.nats(**pad([other])).token[0, k, t] > nats[0, k, t]


def test_caches_hold_windows_only():
    model = make_own(stop_bias=-30.0)
    model.generate(**{k: v for k, v in pad([TEXTS[1]]).items() if k != "sentence_mask"}, max_new_tokens=200)
    state = model.prefill(**pad([TEXTS[1] * 5]))
    tokens = sum(map(len, TEXTS[1] * 5))
    assert tokens > 150
    assert state.lower.lengths == [16]
    assert state.upper.lengths == [14]
    assert state.past_key_values.lengths == [len(TEXTS[1] * 5) + 1]


def test_what_was_begun_otherwise_is_forgotten():
    """A sentence may be begun anew, or another one read than was written."""
    model = make_own().double()
    other = [44, 45, 46, 47]
    with torch.no_grad():
        states = []
        for written in ([], [44, 50], other, [44, 45, 46, 47, 48]):
            state = model.prefill(**pad([TEXTS[0]]))
            model.start_sentence(state).read(torch.tensor([[2, 99]]))
            writing = model.start_sentence(state)
            for i in [2, *written] if written else []:
                writing.read(torch.tensor([[i]]))
                writing.keep([[0]])
            model.step(torch.tensor([other]), torch.ones(1, 4, dtype=torch.bool), state)
            states.append(torch.cat([state.states[0, 0], model.start_sentence(state).read(torch.tensor([[2]]))[0, 0]]))
        whole = model.prefill(**pad([[*TEXTS[0], other]]))
        states.append(torch.cat([whole.states[0, 0], model.start_sentence(whole).read(torch.tensor([[2]]))[0, 0]]))
    for found in states:
        assert torch.allclose(found, states[-1], atol=1e-9)


def test_a_step_without_a_sentence_changes_nothing():
    model = make_own()
    state = model.prefill(**pad([TEXTS[0]]))
    before = state.states.clone()
    model.step(torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.bool), state)
    assert torch.equal(state.states, before)


def test_empty_prompts_of_which_most_end_at_once():
    model = make_own(stop_bias=0.5).double()
    together, _ = written(model, [[]] * 8, do_sample=True, seed=1)
    assert {reason for *_, reason in together} >= {"stop"}
    for number, found in enumerate(together):
        assert written(model, [[]], do_sample=True, seed=[(1, number)])[0] == [found]


@pytest.mark.parametrize("shape", ["gpt2", "opt"])
def test_a_context_slides_and_drafts_reach_over_its_end(shape):
    model = make_own(shape, stop_bias=-30.0, num_future_tokens=3, draft_head_kind="residual", max_sentences=4)
    model.config.trunk.max_position_embeddings = 64  # fewer than there are: what lies behind them shows in positions
    _, output = written(model, TEXTS[:1] + TEXTS[3:4], num_draft=3, overflow="slide")
    assert output.num_new_tokens == [80, 80]
    assert output.cache.get_seq_length() < 64


@pytest.mark.parametrize("tied", [True, False])
def test_eight_bits_say_about_the_same(tied):
    model = make_own(stop_bias=-30.0, lm=dict(tie_word_embeddings=tied))

    def said():
        state = model.prefill(**pad([TEXTS[1]]))
        rows = model.start_sentence(state).read(torch.tensor([[2, 50]]))
        return lm_logits(model, rows, [])[1][0, 1, 0]

    with torch.no_grad():
        plain = said()
        model.write_in("int8")
        eight = said()
    assert not torch.equal(plain, eight)
    assert torch.corrcoef(torch.stack([plain, eight]))[0, 1] > 0.98
    assert written(model, TEXTS[:2])[1].num_new_tokens == [80, 80]


def test_without_lower_layers_it_is_the_same_alone_and_beside_others():
    model = make_own(lower_layers=0, stop_bias=-30.0).double()
    together, _ = written(model, TEXTS)
    for text, found in zip(TEXTS, together, strict=True):
        assert written(model, [text])[0] == [found]
