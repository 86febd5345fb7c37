"""Compiled steps of a graft by own layers: one text is what the model itself writes."""

import itertools

import pytest
import torch
from tiny import CAP, make_own, make_processor, pad
from transformers import CompileConfig, LogitsProcessor

from sllm import own_reading, own_row_steps, reading
from sllm.own_row_steps import OwnRowSteps

# The steps as they are written; what torch.compile makes of them: tests/doors/test_kernels.py.
FIXED: dict = dict(cache_implementation="static", disable_compile=True)
SMALL: dict = dict(num_hidden_layers=4)  # the stages have 1, 1 and 2
TEXTS = [
    [[10, 11, 12], [13]],
    [[14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25], [26, 27], [28], [29, 30, 31, 32]] * 3,
    [],
]


@pytest.fixture(autouse=True)
def little_room(monkeypatch):
    """So that windows are shifted after most sentences, and the trunk's cache is outgrown."""
    monkeypatch.setattr(own_row_steps, "PLACES", 1)
    monkeypatch.setattr(own_reading, "SLACK", 3)


def make(shape="llama", end_bias=-30.0, **options):
    """Sentences of the longest length; sampled ones end earlier with a lesser `end_bias`."""
    model = make_own(shape, stop_bias=-30.0, **dict(end_flag=True) | options)
    with torch.no_grad():
        if model.end_head is not None:
            model.end_head.bias += end_bias
    return model


def written(model, text, **settings):
    batch = pad([text])
    output = model.generate(batch["input_ids"], batch["attention_mask"], **dict(max_new_tokens=50) | settings)
    return output.sequences.tolist(), output.sentence_lengths[0], output.finish_reason, output.statistics


def same(model, text, fixed=FIXED, **settings):
    found = written(model, text, **settings, **fixed)
    assert found == written(model, text, **settings)
    return found[1]


@pytest.fixture
def rows(monkeypatch):
    """How many rows were read by steps."""
    count = itertools.count()
    read = OwnRowSteps._read
    monkeypatch.setattr(OwnRowSteps, "_read", lambda *args: (next(count), read(*args))[1])
    return lambda: next(count)


@pytest.mark.parametrize(("shape", "lower_layers"), [("llama", 1), ("gpt2", 0), ("opt", 1)])
def test_texts_are_the_same(shape, lower_layers, rows):
    model = make(shape, lower_layers=lower_layers, **SMALL).double()
    for text in TEXTS:
        assert same(model, text)[-2] == CAP
    sampling = make(shape, -1.0, lower_layers=lower_layers, **SMALL).double()
    lengths = same(sampling, TEXTS[1], do_sample=True, seed=3, temperature=2.0)
    assert len(set(lengths)) > 3
    assert rows() > 150


def test_without_a_trunk(rows):
    same(make(use_trunk=False).double(), TEXTS[1])
    assert rows() > 40


def test_an_end_mark_of_the_vocabulary(rows):
    model = make(end_flag=False).double()
    assert len(set(same(model, TEXTS[1], do_sample=True, seed=1, temperature=3.0))) > 3
    assert rows() > 40


@pytest.mark.parametrize("num", [1, 5, CAP, CAP + 1, 2 * CAP])
def test_a_limit_within_a_sentence_and_at_its_end(num):
    assert sum(same(make().double(), TEXTS[2], max_new_tokens=num)) == num


def test_an_unfinished_sentence_and_the_last_position():
    model = make("opt").double()
    model.processor = make_processor()
    written = [model.generate(text="It rained. Nob", max_new_tokens=30, **way) for way in ({}, FIXED)]
    assert written[0].texts == written[1].texts
    model.config.trunk.max_position_embeddings = 64  # fewer than there are: what lies behind them shows
    for overflow in ("stop", "slide"):
        same(model, TEXTS[0], max_new_tokens=90, overflow=overflow)


@pytest.mark.parametrize(
    "options",
    [dict(lm=dict(attn_implementation="eager")), dict(lm=dict(tie_word_embeddings=False)), dict(use_trunk=False)],
)
def test_other_ways_to_attend_a_head_apart_and_no_trunk(options):
    same(make(**options).double(), TEXTS[0])


def test_several_texts_and_drafts_go_the_plain_way(rows):
    model = make(num_future_tokens=3, draft_head_kind="residual").double()
    batch = pad(TEXTS[:2])
    way = dict(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=40)
    assert model.generate(**way).sequences.tolist() == model.generate(**way, **FIXED).sequences.tolist()
    same(model, TEXTS[1], num_draft=3)
    assert rows() < 10
    copying = dict(prompt_lookup_num_tokens=4)  # how often depends on the time it takes
    assert written(model, TEXTS[1], **copying)[:3] == written(model, TEXTS[1], **copying, **FIXED)[:3]
    same(model, TEXTS[1], num_draft=1)
    assert rows() > 40


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="compiled steps on CPUs, none on meta"):
        make().to("meta").generate(torch.ones(1, 0, 0, dtype=torch.long), max_new_tokens=2, **FIXED)


@pytest.mark.parametrize("way", [{}, FIXED])
def test_a_sure_end_needs_no_vocabulary(way, monkeypatch):
    made: list[int] = []
    logits = reading.vocabulary_logits
    monkeypatch.setattr(reading, "vocabulary_logits", lambda *args: (made.append(0), logits(*args))[1])  # type: ignore[func-returns-value]
    model = make(end_bias=1.0).double()
    lengths = written(model, [], max_new_tokens=20, **way)[1]
    assert lengths == [1] * 20
    assert len(made) == 20  # of the first tokens, not of the ends behind them
    monkeypatch.setattr(reading, "ends_for_sure", lambda flags: False)
    monkeypatch.setattr(own_row_steps, "ends_for_sure", lambda flags: False)
    assert written(model, [], max_new_tokens=20, **way)[1] == lengths
    assert len(made) == 20 + 39  # the last token's limit ends it


class Never(LogitsProcessor):
    """No sentence ends."""

    def __call__(self, input_ids, scores):
        return scores.index_fill(1, torch.tensor([2]), -torch.inf)


def test_who_changes_logits_sees_them_all():
    model = make(end_bias=1.0).double()
    assert set(same(model, [], logits_processor=[Never()])[:-1]) == {CAP}
    assert len(set(same(model, [], do_sample=True, seed=1))) > 1


@pytest.mark.long
def test_settings_that_change_between_two_calls_are_heard(monkeypatch):
    """Compiled code has them built in."""
    monkeypatch.setattr(own_row_steps, "PLACES", 64)
    traced = dict(cache_implementation="static", compile_config=CompileConfig(backend="eager"))
    model = make()
    first = same(model, TEXTS[1], traced)
    for window in ("lower_window", "upper_window"):
        setattr(model.config, window, 2)
        same(model, TEXTS[1], traced)
    assert written(model, TEXTS[1])[0] != first


def test_each_step_is_one_graph_and_shapes_recur(monkeypatch):
    monkeypatch.setattr(own_row_steps, "PLACES", 64)
    graphs = []

    def backend(graph, inputs, **settings):
        graphs.append(graph)
        return graph.forward

    traced = dict(cache_implementation="static", compile_config=CompileConfig(backend=backend))
    model = make("gpt2", **SMALL)
    model.write_in("int8")
    same(model, TEXTS[1], traced, max_new_tokens=40)
    assert len(graphs) == 4  # opening, token, closing, vocabulary
