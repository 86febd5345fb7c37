"""What ends a text, and what is shown of it, whatever is drafted: alike for all kinds of models and ways to write."""

from functools import cache
from typing import Any

import hypothesis
import pytest
import torch
from families import DRAWN, MAKERS, WRITERS, heads_of, loaded_as, make_family_sllm, make_lm
from hypothesis import strategies as st
from tiny import make_processor
from transformers import GenerationConfig, NoRepeatNGramLogitsProcessor, TextIteratorStreamer

from lmbase.text.codec import codec_of
from lmbase.text.streaming import TextStream
from sllm.evaluation.loaded import Writing


@pytest.fixture(params=WRITERS, scope="module")
def writer(request):
    return WRITERS[request.param]()


@pytest.fixture(params=MAKERS, scope="module")
def loaded(request):
    return loaded_as(MAKERS[request.param]("llama"))


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
def test_D11_stop_strings_of_several_bytes_in_drafts_and_across_sentences(loaded, stop):
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


def test_D11_processors_and_penalties_change_no_draft(loaded):
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


def test_D11_length_counts_the_opening_id_and_the_prompt(loaded):
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


def test_D11_sequences_to_return_are_texts_of_the_batch(writer):
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


def test_an_ordinary_token_that_ends_a_text_is_no_part_of_it(loaded):
    settings = dict(eos_token_id=ids_of(".")[0], max_new_tokens=8)
    found = written(loaded, "x", logits_processor=[Dictated("x", "abc.defg")], **settings)
    assert (found.text, found.finish_reason, found.num_tokens) == ("abc", "stop", 3)
    streamer = TextIteratorStreamer(TOKENIZER, skip_special_tokens=True)
    written(loaded, "x", streamer, logits_processor=[Dictated("x", "abc.defg")], **settings)
    assert "".join(streamer).removeprefix("x") == "abc"
