"""An SLLM whose head draws the next vector: what it learns, writes, saves, and what it refuses."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from tiny import make_opt, make_sllm, make_vae, pad, read
from torch import nn
from transformers import GenerationConfig

from sllm import SLLM, reading
from sllm.assistant import SentenceAssistant
from sllm.evaluation.audit import audit_sentences
from sllm.evaluation.probing import probe
from sllm.modeling_sllm import SLLMModel

GAUSSIAN = dict(latent="gaussian")
KINDS = ("energy", "flow")
TEXTS = ["One, two. Three? Yes, five: six.", "Why", ""]
SENTENCES = [[10, 11], [12], [13, 14, 15], [16, 17]]


def drawing(kind: str = "energy", stop_bias: float = -100.0, **options) -> SLLM:
    return make_sllm(vae=GAUSSIAN, next_vector=kind, stop_bias=stop_bias, **options)


def last_layer(model: SLLMModel) -> nn.Linear:
    return cast(nn.Linear, model.vector_head.out[-1])


@pytest.fixture(scope="module")
def models():
    return {kind: drawing(kind) for kind in KINDS}


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_texts_add_up_and_reach_every_weight_that_learns(kind, frozen):
    model = drawing(kind, freeze_autoencoder=frozen)
    keys = torch.tensor([1, 2, 3])
    batch = read(model, TEXTS)
    model.train()
    whole = model(**batch, keys=keys)
    assert set(whole.losses) == set(model.loss_counts(**batch)) == set(model.loss_weights)
    assert set(whole.losses) == {"vector", "stop"} | ({"rebuilt", "kl"} if not frozen else set())
    parts = [model(**read(model, [text]), keys=key[None]) for text, key in zip(TEXTS, keys, strict=True)]
    for name, value in whole.losses.items():
        torch.testing.assert_close(sum(part.losses[name] for part in parts), value, rtol=1e-4, atol=1e-4)
    whole.loss.backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []  # processes would wait for it


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_sentences_reaches_the_same_weights(kind):
    model = drawing(kind).train()
    model(**pad([[]]), keys=torch.tensor([1])).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "sentence_out" in name)


def test_targets_do_not_flee_to_where_drawing_is_easy():
    """The head's loss moves the autoencoder only through what the trunk reads."""
    model = drawing().train()
    output = model(**pad([[[10, 11]]]), keys=torch.tensor([1]))  # one sentence: nothing is read before it
    output.losses["vector"].backward()
    gradient = last_layer(model).weight.grad
    assert gradient is not None
    assert gradient.any()
    assert all(p.grad is None or not p.grad.any() for p in model.autoencoder.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_texts_together_are_those_alone_and_streamed(kind, models):
    model, shown = models[kind], []

    class Streamer:
        def put(self, value):
            shown.extend(value.flatten().tolist())

        def end(self):
            pass

    prompts = ["One, two.", "Why", ""]
    settings = dict(max_new_sentences=4, num_draft=1)
    together = model.generate(text=prompts, seed=5, **settings)
    assert together.sequences.tolist() == model.generate(text=prompts, seed=5, **settings).sequences.tolist()
    assert together.texts != model.generate(text=prompts, seed=6, **settings).texts
    for number, prompt in enumerate(prompts):
        alone = model.generate(text=prompt, seed=[(5, number)], **settings)
        assert alone.texts == [together.texts[number]]
    streamed = model.generate(text=prompts[0], seed=[(5, 0)], streamer=Streamer(), **settings)
    assert shown == streamed.sequences[0].tolist()
    still = [model.generate(text=prompts, seed=n, vector_temperature=0.0, max_new_sentences=2).texts[0] for n in (1, 2)]
    assert still[0] == still[1]


@torch.no_grad()
def test_what_a_prompt_began_decides_which_vector_is_drawn():
    """Of candidates those under which the decoder finds the beginning likely."""
    model = drawing()
    last_layer(model).weight *= 20  # vectors far apart
    state = model.prefill(**pad([[[10, 11]]]))
    opening = model.get_input_embeddings()(torch.tensor([[2]]))

    def log_probs(begun: list[int]) -> torch.Tensor:
        """(100, V) of the first token, under 100 draws."""
        rows = []
        for key in range(100):
            reading.draw_vectors(model, state, torch.tensor([key]), 1.0, [begun])
            rows.append(model.autoencoder.decoder(opening, state.drawn)[0, 0] @ model.output_table.T)
        return torch.stack(rows).index_fill(1, torch.tensor([2]), -torch.inf).log_softmax(-1)  # no sentence ends there

    free = log_probs([])
    token = int(free.exp().std(0).argmax())  # what the vectors decide most
    assert log_probs([token])[:, token].mean() > free[:, token].mean() + 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_states_and_draws_are_audited(kind, models):
    assert audit_sentences(models[kind], SENTENCES).passed


class Leaky(SLLM):
    """Each state reads the sentence that it is to draw."""

    def trunk_inputs(self, sentences, sentence_mask):
        numbers = (sentences.numbers + 1).clamp(max=len(sentences.ids) - 1)
        return super().trunk_inputs(replace(sentences, numbers=numbers), sentence_mask)


def test_a_leak_into_what_is_drawn_is_found():
    model = drawing()
    model.__class__ = Leaky
    failures = audit_sentences(model, SENTENCES).failures
    assert any("has a gradient into its own vector" in failure for failure in failures)
    assert any("step by step" in failure for failure in failures)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_draws_the_same(kind, models, tmp_path):
    models[kind].save_pretrained(tmp_path)
    again = SLLM.from_pretrained(tmp_path)
    assert again.config.next_vector == kind
    texts = [model.generate(text="One.", seed=1, max_new_sentences=3).texts for model in (models[kind], again)]
    assert texts[0] == texts[1]


def test_compiled_steps_write_the_same(models, uncompiled):
    settings = dict(text="One, two.", seed=3, max_new_sentences=2)
    plain = models["energy"].generate(**settings)
    assert models["energy"].generate(**settings, cache_implementation="static").texts == plain.texts


def test_no_likelihood_is_made_up(models):
    model = models["energy"]
    for asked in (
        lambda: model.score("One."),
        lambda: model.nats(**pad([SENTENCES])),
        lambda: probe(model, [SENTENCES, SENTENCES], [9, 9]),
    ):
        with pytest.raises(ValueError, match="no score and no bits per byte; `sllm brier`"):
            asked()
    with pytest.raises(ValueError, match="this one draws sentences"):
        SentenceAssistant(model)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (dict(vae={}), "has only read exact vectors"),
        (dict(vector_draws=1), "vector_draws=1: at least 2"),
        (dict(posterior_draws=0), "posterior_draws=0: at least 1"),
        (dict(vector_temperature=1.5), "choose 0"),
        (dict(vector_temperature=float("nan")), "choose 0"),
        (dict(flow_steps=3), "flow_steps=3: next_vector='energy' does not read that"),
        (dict(next_vector="projection", vector_blocks=2), "does not read that"),
        (dict(num_memory_tokens=4), "reads the drawn vector alone"),
        (dict(num_future_tokens=2), "drafting heads"),
        (dict(end_flag=True), "end_flag"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(options, why):
    options = dict(vae=GAUSSIAN, next_vector="energy") | options
    with pytest.raises(ValueError, match=why):
        SLLM.graft(make_vae(**options.pop("vae")), make_opt(), max_sentences=16, **options)


def test_own_layers_have_no_vectors_to_draw():
    with pytest.raises(ValueError, match="has no autoencoder whose vectors could be drawn"):
        SLLM.graft_own_layers(make_opt(num_hidden_layers=3, max_position_embeddings=128), 12, upper_layers=1,
                              next_vector="flow")  # fmt: skip


@pytest.mark.parametrize("temperature", [-0.1, 1.01, float("nan"), "warm"])
def test_a_temperature_out_of_range_is_refused(temperature, models):
    with pytest.raises(ValueError, match="vector_temperature="):
        models["energy"].generate(text="One.", vector_temperature=temperature)


def test_a_projection_has_no_vector_temperature():
    with pytest.raises(ValueError, match="draws no vectors; temperature is that of tokens"):
        make_sllm().generate(text="One.", vector_temperature=0.5)


def test_tokens_can_be_drawn_too(models):
    config = GenerationConfig(do_sample=True, max_new_tokens=9)
    texts = {models["energy"].generate(text="One.", generation_config=config, seed=n).texts[0] for n in range(3)}
    assert len(texts) > 1
