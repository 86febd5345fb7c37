"""Kernels that torch.compile makes of the steps of generation. Making them takes minutes, so `make test` makes only
those of one row, and asks of whole steps what is captured."""

import torch
from tiny import CAP, MEMORY, make_own, make_sllm, pad
from transformers import GenerationConfig

from sllm import compiled_steps, own_row_steps, reading
from sllm.own_row_steps import OwnRowSteps


def test_drafting_with_a_memory(monkeypatch):
    monkeypatch.setattr(compiled_steps, "FEWEST_POSITIONS", 64)
    model = make_sllm(**MEMORY, num_future_tokens=2, draft_head_kind="residual", draft_transitions=True).double()
    ids = pad([[[10, 11, 12], [13]]])["input_ids"]
    plain = model.generate(ids, max_new_tokens=30, min_new_tokens=30, num_draft=2)
    made = model.generate(ids, max_new_tokens=30, min_new_tokens=30, num_draft=2, cache_implementation="static")
    assert plain.sequences.tolist() == made.sequences.tolist()


def read_through(model, steps, sentences):
    """Logits at all tokens and ends of sentences that are not chosen."""
    found = []
    with torch.no_grad():
        state = model.prefill(**pad([[[10, 11, 12], [13]]]))
        state = state if steps is None else steps.fix(state)
        for ids in sentences:
            writing = model.start_sentence(state)
            for i in [2, *ids]:
                row = torch.tensor([[i]])
                if steps is None:
                    found.append(reading.lm_logits(model, reading.write_rows(model, row, writing), [])[1])
                else:
                    found.append(steps.write_row(row, writing, False)[2])
                writing.keep([[0]])
            row = torch.tensor([ids])
            sentence = row, torch.ones_like(row, dtype=torch.bool), state
            model.step(*sentence) if steps is None else steps.step(*sentence)
    return torch.cat(found)


def test_rows_of_a_graft_by_own_layers(monkeypatch):
    monkeypatch.setattr(own_row_steps, "PLACES", 64)
    model = make_own(num_hidden_layers=3, upper_layers=1, end_flag=True)
    sentences = [[50, 51, 52], [60] * CAP, [70], [80, 81]] * 2
    exact = read_through(model, None, sentences).log_softmax(-1)
    model.to(torch.bfloat16)
    plain = read_through(model, None, sentences).log_softmax(-1)
    steps = OwnRowSteps(model, GenerationConfig(cache_implementation="static"), 100, 20)
    found = read_through(model, steps, sentences).log_softmax(-1)
    assert (found - exact).abs().mean() < 1.2 * (plain - exact).abs().mean()
    assert (found - plain).abs().max() < 0.3
