"""States that the upper layers read, held against a language model's."""

import pytest
import torch
from tiny import make_lm, make_own, pad

from lmbase.modeling.distillation import OnlineTeacher
from sllm import SLLM
from sllm.matched_states import FIRST, num_compared

TEXTS = [[[10, 11, 12], [13], [14, 15, 16, 17, 18], [19, 20]], [[20, 21]], [], [[30 + i] for i in range(12)]]


def taught(model, lm, texts, weight=0.5):
    model.online_teacher = OnlineTeacher(lm, 260)
    model.online_teacher.depth = lm.config.num_hidden_layers - model.config.upper_layers
    model.teacher_weight, model.state_weight = 0.5, weight
    return pad(texts) | {"ask_teacher": torch.ones(len(texts)).bool()}


@pytest.mark.parametrize("shape", ["llama", "opt-350m", "gpt2"])
def test_a_graft_that_is_the_model_itself_has_its_states(shape):
    lm = make_lm(shape, num_hidden_layers=5, max_position_embeddings=64)
    model = SLLM.graft_own_layers(lm, 1, upper_layers=2, lower_layers=1, lower_window=64, upper_window=64)
    batch = taught(model, lm, [[[i] for i in range(10, 30)]])
    assert model.online_teacher is not None
    with torch.no_grad():
        assert model(**batch).losses["states"] < 1e-6
        model.online_teacher.depth = 2
        assert model(**batch).losses["states"] > 1e-2


def test_they_are_compared_token_by_token_and_counted():
    model, lm = make_own(), make_lm("llama", num_hidden_layers=5, max_position_embeddings=512)
    batch = taught(model, lm, TEXTS)
    loss = model(**batch).losses["states"]
    with torch.no_grad():
        sentences = model.read(**pad(TEXTS))
        inputs = model.own.inputs_of_rows(sentences, model.trunk_states(sentences, batch["sentence_mask"]))
        total, rows = 0.0, 0
        for b, text in enumerate(TEXTS):
            flat = [model.config.bos_token_id, *(i for sentence in text for i in sentence)]
            states = lm.model(torch.tensor([flat]), output_hidden_states=True).hidden_states[3][0]
            for found, wanted in zip(inputs[b, FIRST : len(flat)], states[FIRST:], strict=True):
                total += float(((found - wanted) ** 2).sum() / (wanted**2).sum())
                rows += 1
    assert loss.item() == pytest.approx(total, rel=1e-4)
    assert int(num_compared(batch["attention_mask"])) == rows == int(model.loss_counts(**batch)["states"])
    assert rows == 4 + 5


def test_it_teaches_lower_layers_trunk_and_joints():
    model, lm = make_own(), make_lm("llama", num_hidden_layers=5, max_position_embeddings=512)
    output = model(**taught(model, lm, TEXTS))
    assert model.loss_weights["states"] == 0.5
    assert output.losses.keys() == model.loss_weights.keys()
    names, weights = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(output.losses["states"], weights, allow_unused=True)
    learning = {name for name, gradient in zip(names, found, strict=True) if gradient is not None and gradient.any()}
    assert {"own.carry.weight", "own.joint.weight", "own.offsets"} <= learning
    assert {int(name.split(".")[2]) for name in learning if name.startswith("trunk.layers")} == {0, 1, 2}


def test_without_its_weight_or_a_model_to_ask_there_is_no_such_loss():
    model, lm = make_own(), make_lm("llama", num_hidden_layers=5, max_position_embeddings=512)
    batch = taught(model, lm, TEXTS)
    del batch["ask_teacher"]  # as in validation
    assert "states" not in model(**batch).losses.keys() | model.loss_counts(**batch).keys()
    batch = taught(model, lm, TEXTS, weight=0.0)
    assert "states" not in model(**batch).losses.keys() | model.loss_counts(**batch).keys()
