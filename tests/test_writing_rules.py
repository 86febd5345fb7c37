"""A call of `generate`: one set of rules for plain models, multi-token models and SLLMs."""

from typing import Any

import numpy as np
import pytest
import torch
from families import DRAWN, MAKERS, WRITERS, heads_of, loaded_as, make_family_sllm, make_lm
from tiny import make_vae
from transformers import GenerationConfig
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from sllm.evaluation.loaded import Writing


@pytest.fixture(params=WRITERS, scope="module")
def writer(request):
    return WRITERS[request.param]()


@pytest.fixture(params=MAKERS, scope="module")
def loaded(request):
    return loaded_as(MAKERS[request.param]("llama"))


# -- draws -------------------------------------------------------------------------------------------------------------


def test_D1_a_plain_model_and_head_1_draw_the_same_text_with_the_same_seed():
    """No setting of Transformers' own, such as its top_k of 50, comes in between."""
    lm = make_lm("opt")
    heads = heads_of(lm)
    for seed in range(5):
        plain, own = (loaded_as(m).write("Hello", Writing(10, seed=seed, settings=DRAWN)) for m in (lm, heads))
        assert (plain.text, plain.num_tokens) == (own.text, own.num_tokens)


def test_D1_draws_come_from_the_whole_vocabulary():
    """Logits that are all alike: of 260 tokens far more than 50 are drawn."""
    lm = make_lm("opt")
    with torch.no_grad():
        for weight in lm.parameters():
            weight.zero_()
    for model in (lm, heads_of(lm)):
        texts = [loaded_as(model).write("", Writing(60, seed=seed, settings=DRAWN)).text for seed in range(8)]
        assert len(set("".join(texts))) > 80


def test_D1_settings_of_the_model_s_own_folder_count_alike_and_others_are_told():
    lm = make_lm("opt")
    lm.generation_config.update(top_k=1, num_beams=4)
    heads = heads_of(lm)
    heads.generation_config.update(top_k=1, num_beams=4)
    for model in (lm, heads):
        with CaptureLogger(logging.get_logger("transformers.lmbase.modeling.settings")) as log:
            drawn = loaded_as(model).write("Hello", Writing(8, seed=1, settings=dict(do_sample=True)))
        greedy = loaded_as(make_lm("opt")).write("Hello", Writing(8))
        assert drawn.text == greedy.text
        assert "num_beams of the model's generation_config.json" in log.out


@pytest.mark.parametrize("way", [dict(prompt_lookup_num_tokens=3), dict(assistant=True)])
def test_D1_drafts_change_no_draw_of_a_plain_model(way):
    plain = loaded_as(make_lm("llama"))
    assistant = loaded_as(make_family_sllm()).as_assistant(plain) if way.pop("assistant", False) else None
    alone, helped = (
        plain.write("One, one, one,", Writing(16, seed=5, settings=DRAWN | more, assistant=help)).text
        for more, help in (({}, None), (way, assistant))
    )
    assert alone == helped


def new_ids(output) -> list[list[int]]:
    texts = output.sequences.shape[0]
    return [output.sequences[b, -output.num_new_tokens[b] :].tolist() for b in range(texts)]


@pytest.mark.parametrize("num_draft", [1, "auto"])
def test_D2_what_stands_beside_a_text_does_not_change_its_draws(writer, num_draft):
    prompts = ["One, two, three.", "Four", "Five, six! Seven"]
    how = DRAWN | dict(num_draft=num_draft, max_new_tokens=24)
    for seed in range(4):
        outputs = [writer.generate(text=prompts[:n], seed=seed, **how) for n in (1, 2, 3)]
        texts = [output.texts for output in outputs]
        assert texts[0] == texts[1][:1] == texts[2][:1]
        assert texts[1] == texts[2][:2]


def test_D2_draws_of_a_seed_and_a_number_are_those_of_no_other(writer):
    """Nor with the seeds that once met: 7920 and 1, 2**32 and 0."""
    how = DRAWN | dict(temperature=5.0, max_new_tokens=12, min_new_tokens=8, num_draft=1)
    texts: list[str] = []
    for seed in (0, 1, 2, 7919, 7920, 2**32, 2**63 + 1, 2**64 - 1):
        texts += writer.generate(text=["Hello"] * 3, seed=seed, **how).texts
    assert len(set(texts)) == len(texts)


def test_D2_numbers_of_numpy_draw_as_pythons_do(writer):
    """Draws belong to the digits of a seed and a number: `np.int64(1)` has others than `1`."""
    how = DRAWN | dict(text="Hello", max_new_tokens=8)
    found = writer.generate(seed=[(np.int64(3), np.int32(1))], **how).texts
    assert found == writer.generate(seed=[(3, 1)], **how).texts
    assert found == writer.generate(**how | dict(text=["So", "Hello"]), seed=3).texts[1:]


def test_what_is_passed_on_as_none_asks_for_nothing(writer):
    nothing = dict.fromkeys(["inputs_embeds", "position_ids", "token_type_ids", "assistant_model"])
    found = writer.generate(text="Hello", max_new_tokens=4, do_sample=np.False_, **nothing)
    assert found.texts == writer.generate(text="Hello", max_new_tokens=4).texts


# -- ranges ------------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, list]] = [
    ("temperature", [0, -1.0, 1e-38, 1e-45, 1e40, float("nan"), float("inf"), "0.5", True, [1.0]]),
    ("top_p", [90, 1.5, -0.1, float("nan"), "0.9", True]),
    ("top_k", [-1, 1.5, "3", True, float("inf")]),
    ("max_new_tokens", [-1, "3", 2.5, True]),
    ("min_new_tokens", [-1, "3", True]),
    ("seed", [2**64, -1, True, "1", 1.0]),
    ("prompt_lookup_num_tokens", [0, "3", True, 257, 10**9]),  # which filled the memory until the process was killed
    ("max_matching_ngram_size", [0, 10**9]),
    ("num_draft", [0, -1, "abc", "-1", True, 1.5, 99]),
    ("do_sample", ["false", 1]),
    ("return_dict_in_generate", ["false", 0]),
    ("use_cache", ["false", 0]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED for value in values])
def test_D6_a_value_out_of_range_is_refused_by_every_kind(loaded, name, value):
    given = {name: value}
    settings = DRAWN | {k: given.pop(k) for k in list(given) if k not in ("max_new_tokens", "seed", "num_draft")}
    with pytest.raises(ValueError, match=name) as error:
        loaded.write("Hello", Writing(**({"max_new_tokens": 3} | given), settings=settings))
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        dict(temperature=2),
        dict(temperature=np.float32(0.5)),
        dict(temperature=1e-6),
        dict(top_k=np.int64(3)),
        dict(top_k=10**6),
        dict(top_p=1),
        dict(top_p=0.0),
    ],
)
def test_D6_numbers_of_every_type_work(loaded, settings):
    four: Any = np.int64(4)
    how = Writing(four, seed=four, num_draft=four // 4, settings=dict(do_sample=True) | settings)
    assert loaded.write("Hello", how).num_tokens <= 4


def test_D6_no_new_tokens_are_none(loaded):
    written = loaded.write("Hello", Writing(0))
    assert (written.text, written.num_tokens, written.finish_reason) == ("", 0, "length")


def test_D6_a_tiny_temperature_is_greedy(loaded):
    how = dict(do_sample=True, temperature=1e-6)
    assert loaded.write("Hello", Writing(6, seed=1, settings=how)).text == loaded.write("Hello", Writing(6)).text


def test_D6_where_nothing_can_be_chosen_nothing_is_written(writer):
    with pytest.raises(ValueError, match="No token of text 0 can be chosen"):
        writer.generate(text="Hello", logits_processor=[lambda ids, scores: scores - torch.inf])


def test_D6_logits_without_a_number_are_told(loaded):
    def nan(module, inputs, output):
        return output * torch.nan

    hook = loaded.model.get_input_embeddings().register_forward_hook(nan)
    try:
        with pytest.raises(ValueError, match=r"can be chosen.*NaN"):
            loaded.write("Hello", Writing(3))
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "how", [dict(num_draft="abc"), dict(max_new_sentences=3), dict(overflow="nonsense"), dict(overflow="slide")]
)
def test_D9_what_a_kind_of_model_does_not_do_is_refused(loaded, how):
    if loaded.by_sentence and how not in (dict(num_draft="abc"), dict(overflow="nonsense")):
        assert loaded.write("Hello", Writing(3, **how)).num_tokens <= 3
        return
    ((name, value),) = how.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        loaded.write("Hello", Writing(3, **how))


@pytest.mark.parametrize("value", [-1, "3", True, 1.5])
def test_D9_sentences_are_counted_in_whole_numbers(value):
    with pytest.raises(ValueError, match=f"max_new_sentences={value!r}: give a whole number"):
        make_family_sllm().generate(text="Hello", max_new_sentences=value)


# -- what is not supported ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_beams=2),
        dict(penalty_alpha=0.6),
        dict(guidance_scale=2.0),
        dict(output_scores=True),
        dict(forced_eos_token_id=2),
    ],
)
def test_D11_what_is_not_there_is_refused_by_name(writer, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match="not supported") as error:
        writer.generate(text="Hello", **settings)
    assert f"{name}={value!r}" in str(error.value)
    with pytest.raises(ValueError, match=name):
        writer.generate(text="Hello", generation_config=GenerationConfig(**settings))


def test_D11_a_plain_list_of_logits_processors_is_taken(writer):
    def only_a(ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([ids.new_tensor(101)]), 0.0)

    assert set(writer.generate(text="Hello", logits_processor=[only_a], max_new_tokens=4).texts[0]) == {"a"}
    with pytest.raises(ValueError, match="logits_processor is a function: give a list"):
        writer.generate(text="Hello", logits_processor=only_a)


def test_D11_a_text_may_come_first(writer):
    assert writer.generate("Hello", max_new_tokens=4).texts == writer.generate(text="Hello", max_new_tokens=4).texts
    assert len(writer.generate(["Hello", "So"], max_new_tokens=4).texts) == 2


# -- ids of a prompt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_tokenizer", [True, False])
@pytest.mark.parametrize(
    "ids", [[2, 2, 100], [2, 100, 101, 2, 102], [2, 0, 100], [2, 100, 3], [100, 1, 101], [2, 100, 2]]
)
def test_B6_special_ids_inside_a_prompt_are_refused_by_every_model(writer, ids, with_tokenizer, monkeypatch):
    mask = torch.ones(1, len(ids))
    sentences = torch.tensor([[ids[1:]]])
    if not with_tokenizer:  # then only the model's own marks are known
        monkeypatch.setattr(writer, "_tokenizer" if hasattr(writer, "_tokenizer") else "_processor", None)
        if not set(ids[1:]) & {1, 2}:
            return
    calls = [(torch.tensor([ids]), mask)] if with_tokenizer or not hasattr(writer, "_processor") else []
    if hasattr(writer, "_processor"):
        calls.append((sentences, torch.ones_like(sentences)))
    for given in calls:
        with pytest.raises(ValueError, match=r"Prompt ids hold special tokens \[\d\]"):
            writer.generate(*given)


def test_B6_the_opening_id_may_stand_first_and_padding_on_either_side(writer):
    expected = writer.generate(text="de", max_new_tokens=5).texts
    for ids in ([[2, 104, 105]], [[1, 2, 104, 105]], [[2, 104, 105, 1]]):
        assert writer.generate(torch.tensor(ids), max_new_tokens=5).texts == expected


# -- one text is one text ----------------------------------------------------------------------------------------------


def test_G4_a_text_alone_is_one_text(writer):
    alone, listed = writer.score("One, two."), writer.score(["One, two."])
    assert alone == listed
    assert alone.bytes == [9]
    assert writer.score("Two.", contexts="One, ") == writer.score(["Two."], contexts=["One, "])
    with pytest.raises(ValueError, match="1 contexts for 2 texts"):
        writer.score(["One, two.", "Three."], contexts="No")


def test_G4_also_of_an_autoencoder_and_a_processor():
    vae = make_vae()
    assert torch.equal(vae.encode_text("One, two."), vae.encode_text(["One, two."]))
    assert vae.reconstruct("One, two.") == vae.reconstruct(["One, two."])
    assert len(vae.reconstruct("One, two.")) == 1
    assert torch.equal(vae.processor("One, two.").input_ids, vae.processor(["One, two."]).input_ids)
    assert vae.processor.encode_batch("One, two.") == [vae.processor.encode("One, two.")]
    assert vae.processor(()).input_ids.shape[0] == 0


@pytest.mark.parametrize("wrong", [b"bytes", ["a", 3], [None], None, 5])
def test_G4_what_is_no_text_is_told(writer, wrong):
    with pytest.raises(ValueError, match="give a text or a list of"):
        writer.score(wrong)
    with pytest.raises(ValueError, match="give a text or a list of"):
        make_vae().encode_text(wrong)
    if wrong is not None:  # which asks for a text from its beginning, as in Transformers
        with pytest.raises(ValueError):
            writer.generate(text=wrong)


def test_F9_copies_beside_heads_are_told_as_such(writer):
    with pytest.raises(ValueError, match="prompt_lookup_num_tokens=3 copies guesses"):
        writer.generate(text="Hello", num_draft=4, prompt_lookup_num_tokens=3)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": (dict(logits_processor=[lambda ids, scores: None]), "logits processor returned a NoneType: return"),
    "less": (dict(logits_processor=[lambda ids, scores: scores[:, :5]]), r"returned a tensor of shape \(1, 5\)"),
    "counts": (dict(logits_processor=[lambda ids, scores: scores.long()]), r"type torch.int64: return the scores"),
    "no processor": (dict(logits_processor=[5]), "logits_processor holds 5, which cannot be called"),
    "no truth": (dict(stopping_criteria=[lambda ids, scores: None]), "stopping criterion returned None: return True"),
    "a word": (dict(stopping_criteria=[lambda ids, scores: "yes"]), "stopping criterion returned 'yes'"),
    "no criterion": (dict(stopping_criteria=[5]), "stopping_criteria hold 5, which cannot be called"),
    "no id": (dict(suppress_tokens=[260]), r"suppress_tokens=\[260\]: give an id .* of 260; none of them is written"),
    "before the first": (dict(suppress_tokens=[-1]), "none of them is written"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_shapes_a_text_and_is_none_is_told_by_every_kind(loaded, wrong):
    """Scores of a part of the vocabulary were taken for those of its first tokens, ids outside it for none."""
    settings, told = WRONG[wrong]
    with pytest.raises(ValueError, match=told):
        loaded.write("Hello", Writing(4, settings=settings))


def test_one_id_is_a_list_of_one(writer):
    forbidden = writer.generate(text="Hello", max_new_tokens=4).sequences[0, -4:]
    expected = writer.generate(text="Hello", max_new_tokens=4, suppress_tokens=[int(forbidden[0])])
    found = writer.generate(text="Hello", max_new_tokens=4, suppress_tokens=forbidden[0])
    assert found.texts == expected.texts != writer.generate(text="Hello", max_new_tokens=4).texts


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (dict(text="Hello", attention_mask=torch.ones(1, 5)), "attention_mask is for a tensor of input_ids"),
        (dict(input_ids=torch.tensor([[20, 30]]), attention_mask="11"), "attention_mask is a str"),
        (dict(input_ids=torch.tensor([[20]]), attention_mask=5, **DRAWN, num_return_sequences=2), "mask is a int"),
        (dict(input_ids=torch.tensor([[20, 30]]), attention_mask=torch.tensor([[0.0, -1e9]])), "holds -1000000000.0"),
        (dict(text="Hello", streamer=5), "streamer=5: give a streamer of Transformers, with put and end"),
        (dict(text="Hello", tree="x"), "tree='x': give paths of ranks"),
        (dict(text="Hello", tree=[0]), r"tree=\[0\]: give paths"),
        (dict(text="Hello", seed=[(1, "a")]), "a list of a seed and a text's number"),
        (dict(text="Hello", seed=[(1, -1)]), "a list of a seed and a text's number"),
        (dict(text="Hello", seed=[(None, 1)]), "a list of a seed and a text's number"),
        (dict(inputs_embeds=torch.zeros(1, 2, 16)), "prompts are texts or ids"),
    ],
    ids=str,
)
def test_arguments_of_another_kind_are_told(writer, given, told):
    """A mask beside a text was passed over, and one of scores read as its opposite."""
    with pytest.raises(ValueError, match=told):
        writer.generate(**given, max_new_tokens=3)


def test_batches_that_texts_join_are_refused(writer):
    for door in (writer.init_continuous_batching, lambda: writer.generate_batch([[20, 30]])):
        with pytest.raises(ValueError, match="has no continuous batching: generate takes a list of texts"):
            door()
