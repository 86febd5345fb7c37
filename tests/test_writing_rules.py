"""A call of `generate`: one set of rules for plain models, multi-token models and SLLMs."""

from functools import cache
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from families import MAKERS, loaded_as, make_family_heads, make_family_sllm, make_lm
from hypothesis import strategies as st
from tiny import make_processor, make_vae
from transformers import GenerationConfig, NoRepeatNGramLogitsProcessor, TextIteratorStreamer
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from lmbase.text.codec import codec_of
from lmbase.text.streaming import TextStream
from multitoken import MultiTokenLM
from sllm.evaluation.loaded import Writing

DRAWN: dict[str, Any] = dict(do_sample=True, temperature=0.9)
WRITERS = {"heads": make_family_heads, "sentences": make_family_sllm}


@pytest.fixture(params=WRITERS, scope="module")
def writer(request):
    return WRITERS[request.param]()


@pytest.fixture(params=MAKERS, scope="module")
def loaded(request):
    return loaded_as(MAKERS[request.param]("llama"))


def heads_of(lm: Any) -> MultiTokenLM:
    heads = MultiTokenLM.from_lm(lm, 2)
    heads.tokenizer = make_processor().tokenizer
    return heads


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


# -- ranges ------------------------------------------------------------------------------------------------------------

REFUSED = [
    ("temperature", [0, -1.0, 1e-38, 1e-45, 1e40, float("nan"), float("inf"), "0.5", True, [1.0]]),
    ("top_p", [90, 1.5, -0.1, float("nan"), "0.9", True]),
    ("top_k", [-1, 1.5, "3", True, float("inf")]),
    ("max_new_tokens", [-1, "3", 2.5, True]),
    ("min_new_tokens", [-1, "3", True]),
    ("seed", [2**64, -1, True, "1", 1.0]),
    ("prompt_lookup_num_tokens", [0, "3", True]),
    ("num_draft", [0, -1, "abc", "-1", True, 1.5, 99]),
    ("do_sample", ["false", 1]),
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
    with pytest.raises(ValueError):
        writer.generate(text=wrong)


def test_F9_copies_beside_heads_are_told_as_such(writer):
    with pytest.raises(ValueError, match="prompt_lookup_num_tokens=3 copies guesses"):
        writer.generate(text="Hello", num_draft=4, prompt_lookup_num_tokens=3)


# -- what ends a text, whatever is drafted -----------------------------------------------------------------------------

# Of each kind the ways to write that must bring the same text; `assistant` stands for one.
WAYS: dict[str, list[dict]] = {
    "plain": [{}, dict(prompt_lookup_num_tokens=4), dict(assistant=True)],
    "heads": [dict(num_draft=1), dict(num_draft=2), {}, dict(tree=[[0], [1]]), dict(prompt_lookup_num_tokens=4)],
    "sentences": [dict(num_draft=1), dict(num_draft=2), {}, dict(tree=[[0], [1]]), dict(prompt_lookup_num_tokens=4)],
}
STATIC = dict(cache_implementation="static", disable_compile=True)
TOKENIZER = make_processor().tokenizer


def ids_of(text: str) -> list[int]:
    return codec_of(TOKENIZER).encode(text)


def written(loaded, prompt: str = "One, one, one,", streamer: Any = None, **settings) -> Any:
    """A text and why it ended, in each of the ways of its kind, which agree."""
    name = "sentences" if loaded.by_sentence else "plain" if loaded.plain else "heads"
    ways = WAYS[name] + ([] if loaded.plain else [STATIC | dict(num_draft=2)])
    found = []
    for way in ways if streamer is None else ways[-1:]:
        more, seed = settings | way, 3 if settings.get("do_sample") else None
        num_draft = more.pop("num_draft", "auto")
        assistant = assistant_for(loaded) if more.pop("assistant", False) else None
        how = Writing(
            more.pop("max_new_tokens", 24), num_draft=num_draft, seed=seed, assistant=assistant, settings=more
        )
        found.append(loaded.write(prompt, how, streamer))
    for other in found[1:]:
        assert (other.text, other.finish_reason) == (found[0].text, found[0].finish_reason)
        assert other.num_tokens == found[0].num_tokens
    return found[0]


@cache
def family_sllm() -> Any:
    return loaded_as(make_family_sllm())


def assistant_for(loaded) -> Any:
    return family_sllm().as_assistant(loaded)


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.booleans(), st.data())
def test_a_text_with_stop_strings_is_the_text_without_them_cut_at_the_first(loaded, prompt, do_sample, data):
    plain = written(loaded, prompt, do_sample=do_sample, min_new_tokens=10)
    start = data.draw(st.integers(0, max(len(plain.text) - 1, 0)))
    stop = plain.text[start : start + data.draw(st.integers(1, 4))] or "nowhere"
    found = written(loaded, prompt, do_sample=do_sample, min_new_tokens=10, stop_strings=[stop, "\N{OWL}no"])
    assert found.text == plain.text.split(stop)[0]
    assert found.finish_reason == ("stop" if stop in plain.text else plain.finish_reason)
    assert found.num_tokens <= plain.num_tokens


class Dictated:
    """Logits of a given text, which goes on after a prompt of so many ids: knows where it is by what stands before."""

    def __init__(self, prompt: str, text: str):
        self.start, self.ids = 1 + len(ids_of(prompt)), ids_of(text)

    def __call__(self, input_ids, scores):
        token = self.ids[input_ids.shape[1] - self.start]
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([token]), 0.0)


JAPANESE = "今日は雨。明日も雨。" * 2  # three bytes a character: a sentence of 12 tokens ends after every fourth


@pytest.mark.parametrize("stop", ["雨", "。", "日は雨。明", "も", "雨。明日も雨。今", "無"])
def test_stop_strings_of_several_bytes_in_drafts_and_across_sentences(loaded, stop):
    """Copies come true here, so strings end inside of drafts that are accepted."""
    dictated = Dictated("今日は雨。", JAPANESE)
    found = written(loaded, "今日は雨。", logits_processor=[dictated], stop_strings=stop, max_new_tokens=50)
    assert found.text == JAPANESE[: len(found.text)]
    if stop in JAPANESE:
        assert (found.text, found.finish_reason) == (JAPANESE.split(stop)[0], "stop")
        assert found.num_tokens == len(ids_of(found.text + stop))


def test_a_stream_shows_what_the_text_holds(loaded):
    for stop in ("雨。明", "無"):
        streamer = TextIteratorStreamer(TOKENIZER, skip_special_tokens=True)
        dictated = Dictated("So: ", JAPANESE)
        how = dict(logits_processor=[dictated], stop_strings=stop, max_new_tokens=48)
        found = written(loaded, "So: ", streamer=streamer, **how)
        parts = list(streamer)
        assert "".join(parts) == "So: " + found.text
        assert max(map(len, parts)) < len(JAPANESE)


class Shown:
    """A streamer that keeps the ids that it is handed."""

    def __init__(self):
        self.events: list[Any] = []

    def put(self, value):
        self.events.append(value.flatten().tolist())

    def end(self):
        self.events.append("end")


def plain_ids(loaded) -> list[int]:
    """The ids that `written` writes."""
    streamer = Shown()
    loaded.write("One, one, one,", Writing(24, num_draft=1, settings=dict(min_new_tokens=24)), streamer)
    return [i for part in streamer.events[1:-1] for i in part]


def test_processors_and_penalties_change_no_draft(loaded):
    """Greedy and drawn: each depends on all that was written before a token."""
    ids = plain_ids(loaded)
    for more in (
        dict(repetition_penalty=1.7),
        dict(no_repeat_ngram_size=1),
        dict(bad_words_ids=[ids[1:3]]),
        dict(suppress_tokens=[ids[4]]),
        dict(sequence_bias=[[ids[2:4], -100.0]]),
        dict(logits_processor=[NoRepeatNGramLogitsProcessor(2)]),
    ):
        assert written(loaded, min_new_tokens=24, **more).text != written(loaded, min_new_tokens=24).text
    draws: dict[str, Any] = dict(do_sample=True, min_new_tokens=24)
    drawn = written(loaded, **draws).text
    warped: list[dict] = [
        dict(min_p=0.02, typical_p=0.3, repetition_penalty=1.3),
        dict(epsilon_cutoff=0.1, eta_cutoff=0.1),
    ]
    for more in warped:
        assert written(loaded, **draws, **more).text != drawn


def test_heads_write_what_transformers_writes():
    lm = make_lm("opt")
    heads = heads_of(lm)
    ids = torch.tensor([[2, *ids_of("One, one, one,")]])
    calls: list[dict[str, Any]] = [
        dict(max_new_tokens=16, repetition_penalty=1.7),
        dict(max_new_tokens=16, no_repeat_ngram_size=2, bad_words_ids=[[101], [111, 110]]),
        dict(max_new_tokens=16, suppress_tokens=[100, 101], min_length=20),
        dict(max_length=20),
        dict(max_new_tokens=16, eos_token_id=[2, 101, 110, 120, 130, 140, 150]),
    ]
    for more in calls:
        expected = lm.generate(ids, do_sample=False, pad_token_id=1, **more)[0].tolist()
        for num_draft in (1, 2):
            found = heads.generate(ids, num_draft=num_draft, **more).sequences[0].tolist()
            assert found == expected[: len(found)]
            assert len(expected) - len(found) <= (expected[-1] in more.get("eos_token_id", [2]))


def test_several_ids_end_a_text(loaded):
    ids = plain_ids(loaded)
    for end in ids[0], ids[5]:
        found = written(loaded, eos_token_id=[2, 259, end], min_new_tokens=ids.index(end))
        assert (found.num_tokens, found.finish_reason) == (ids.index(end), "stop")
        assert written(loaded, min_new_tokens=24).text.startswith(found.text)
        assert written(loaded, eos_token_id=end, min_new_tokens=12).num_tokens >= 12


def test_criteria_are_asked_after_each_token(loaded):
    plain = written(loaded, min_new_tokens=12)
    given = 1 + len(ids_of("One, one, one,"))
    for number in range(1, 9):
        enough = lambda ids, scores, wanted=number: ids.shape[1] == given + wanted  # noqa: E731
        found = written(loaded, stopping_criteria=[enough], min_new_tokens=12)
        assert (found.num_tokens, found.finish_reason) == (number, "stop")
        assert plain.text.startswith(found.text)


def test_time_ends_a_text_after_its_next_token(loaded):
    found = written(loaded, max_time=0, min_new_tokens=12)
    assert (found.num_tokens, found.finish_reason) == (1, "time")
    assert written(loaded, max_time=1000.0, min_new_tokens=12).text == written(loaded, min_new_tokens=12).text


def test_length_counts_the_opening_id_and_the_prompt(loaded):
    given = 1 + len(ids_of("Hello"))
    for length in (0, given, given + 1, given + 5):
        found = written(loaded, "Hello", max_new_tokens=None, max_length=length, min_new_tokens=20)
        assert (found.num_tokens, found.finish_reason) == (max(length - given, 0), "length")
    least = written(loaded, "Hello", max_new_tokens=30, min_length=given + 20)
    assert least.num_tokens >= 20


def test_a_configuration_is_heard_and_keywords_count_over_it(loaded):
    config = GenerationConfig(max_new_tokens=7, repetition_penalty=1.7, min_new_tokens=20)
    heard = written(loaded, generation_config=config, max_new_tokens=None)
    assert heard.num_tokens == 7
    assert heard.text == written(loaded, repetition_penalty=1.7, min_new_tokens=20, max_new_tokens=7).text
    assert written(loaded, generation_config=config, max_new_tokens=3).num_tokens == 3


@pytest.mark.parametrize("prompt", ["", "Hello"])
def test_edges_are_alike(loaded, prompt):
    nothing = written(loaded, prompt, max_new_tokens=0, stop_strings=["a"], repetition_penalty=1.3)
    assert (nothing.text, nothing.num_tokens, nothing.finish_reason) == ("", 0, "length")
    last_column = lambda ids, scores: scores.index_fill(1, ids[:, -1], -torch.inf)  # noqa: E731
    assert written(loaded, prompt, logits_processor=[last_column], min_new_tokens=9).num_tokens >= 9
    shown: list[str] = []
    loaded.write(prompt, Writing(0), TextStream(TOKENIZER, shown.append))
    assert "".join(shown) == prompt + "\n"


@pytest.mark.parametrize("name", ["plain", "heads"])
def test_token_level_texts_end_where_positions_do(name):
    loaded = loaded_as(MAKERS[name]("llama"))
    for length in (60, 63):
        found = written(loaded, "a" * length, max_new_tokens=99, min_new_tokens=99)
        assert (found.num_tokens, found.finish_reason) == (64 - length, "context")
    with pytest.raises(ValueError, match="64 positions"):
        written(loaded, "a" * 64)


def test_an_empty_prompt_of_ids_is_the_opening_id_alone(writer):
    empty = torch.zeros(1, 0, dtype=torch.long)
    assert writer.generate(empty, max_new_tokens=6).texts == writer.generate(text="", max_new_tokens=6).texts


def test_sequences_to_return_are_texts_of_the_batch(writer):
    how = DRAWN | dict(max_new_tokens=12, seed=1)
    several = writer.generate(text=["One,", "So"], num_return_sequences=3, **how)
    assert several.texts == writer.generate(text=["One,"] * 3 + ["So"] * 3, **how).texts
    assert len(set(several.texts)) > 3
    ids = torch.tensor([[2, *ids_of("One,")], [1, 1, 2, *ids_of("So")]])
    assert writer.generate(ids, ids != 1, num_return_sequences=3, **how).texts == several.texts
    with pytest.raises(ValueError, match=r"3 prompts were given \(num_return_sequences counts\)"):
        writer.generate("One,", num_return_sequences=3, streamer=TextStream(TOKENIZER, print), **how)


def test_texts_of_a_batch_end_apart(writer):
    """One by a stop string in the middle of a sentence, others go on as if nothing were."""
    prompts, how = ["One, one, one,", "Four", "So"], dict(max_new_tokens=24, min_new_tokens=24)
    plain = [writer.generate(text=prompt, **how).texts[0] for prompt in prompts]
    stop = plain[0][3:5]
    for num_draft in (1, 2, "auto"):
        found = writer.generate(text=prompts, stop_strings=stop, num_draft=num_draft, **how)
        assert found.texts == [text.split(stop)[0] for text in plain]


def test_stop_strings_need_a_tokenizer(writer, monkeypatch):
    ids = torch.tensor([[[*ids_of("So")]]]) if hasattr(writer, "_processor") else torch.tensor([[2, *ids_of("So")]])
    monkeypatch.setattr(writer, "_tokenizer" if hasattr(writer, "_tokenizer") else "_processor", None)
    with pytest.raises(ValueError, match="has no tokenizer"):
        writer.generate(ids, stop_strings=["a"])
    assert writer.generate(ids, stop_strings=["a"], tokenizer=TOKENIZER, max_new_tokens=3).texts is None


class Drafts(Shown):
    """One that is shown drafts, too."""

    def put_draft(self, ids, num_accepted):
        self.events.append((ids, num_accepted))


@pytest.mark.parametrize(
    "way", [dict(tree=[[0], [1]]), dict(num_draft=2), dict(prompt_lookup_num_tokens=4), dict(assistant=True)]
)
def test_a_streamer_sees_drafts_before_they_are_verified(loaded, way):
    if ("assistant" in way) > loaded.plain or loaded.plain > ("assistant" in way or "prompt_lookup_num_tokens" in way):
        return
    streamer, prompt = Drafts(), "今日は雨。今日は雨。"
    more = dict(way)
    assistant = assistant_for(loaded) if more.pop("assistant", False) else None
    num_draft = more.pop("num_draft", "auto") if not more.get("tree") else 2
    more |= dict(logits_processor=[Dictated(prompt, JAPANESE)])
    loaded.write(prompt, Writing(30, num_draft=num_draft, assistant=assistant, settings=more), streamer)
    first, *events, end = streamer.events
    assert first[-len(ids_of(prompt)) :] == ids_of(prompt)
    assert end == "end"
    new: list[int] = []
    accepted = 0
    for number, event in enumerate(events):
        if isinstance(event, list):
            new += event
        elif event[1] is not None:  # after the draft itself, and before what it brought
            drafted, count = event
            assert events[number - 1][1] is None
            assert "tree" in way or events[number - 1][0] == drafted
            following = events[number + 1] if number + 1 < len(events) else []
            if isinstance(following, list):  # an end mark of a sentence is no token of the text
                assert following[:count] == drafted[:count]
            accepted += count
    assert new == ids_of(JAPANESE)[:30]
    assert any(isinstance(event, tuple) for event in events)
    assert accepted > 0 or "prompt_lookup_num_tokens" not in way
