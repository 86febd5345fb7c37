"""A plain model with a window does all that recipes ask of a model."""

from typing import Any

import pytest
import torch
from families import FAMILIES, loaded_as, make_family_sllm, make_lm
from tiny import make_processor

from lmbase.modeling import kept_window
from lmbase.modeling.kept_window import KeptWindow
from lmbase.modeling.trunk import position_bytes, special_ids, trunk_of
from lmbase.text.sentence_ends import SentenceEnds
from lmbase.text.tokenizers import encode_text
from sllm.assistant import SentenceAssistant
from sllm.evaluation.costs import Continuation
from sllm.evaluation.kept_window import as_configured, keeping
from sllm.evaluation.loaded import Writing

TEXT = "So, I. It is 3.14, no? Yes. Four and five!"


def make(family="llama", window=4, processor=True, **options):
    plain = loaded_as(make_lm(family, **options))
    return keeping(plain, KeptWindow(window, make_processor() if processor else None))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("window", [1, 4])
def test_its_scores_are_a_likelihood(family, window):
    loaded = make(family, window)
    report = loaded.audit(TEXT)
    assert report.passed, report.failures
    (document,), (open_end,) = loaded.score([TEXT], 20)["full window"], loaded.continuations([("", TEXT)])
    assert isinstance(open_end, Continuation)
    assert open_end.nats == pytest.approx(document.nats - document.token[-1], rel=1e-4)
    assert document.nats != pytest.approx(loaded_as(loaded.model).score([TEXT], 20)["full window"][0].nats, rel=1e-4)


def test_an_end_that_is_told_too_late_fails_the_audit(monkeypatch):
    """Planted: it is told by tokens behind the window, so the parallel scores see what follows."""
    monkeypatch.setattr(kept_window, "SentenceEnds", lambda processor, window: SentenceEnds(processor, 2 * window))
    report = make(window=4).audit(TEXT)
    assert not report.passed
    assert "step by step with a cache" in report.failures[0]
    report = make(window=48, max_position_embeddings=256).audit(TEXT * 5)  # behind what is stepped of other models
    assert "what is not kept is forgotten" in report.failures[-1]


@torch.no_grad()
def test_each_token_that_it_writes_is_its_first_choice():
    loaded = make(window=3)
    new = loaded.write("It is, yes. And", Writing(12, settings=dict(do_sample=False, min_new_tokens=12)))
    written = [special_ids(loaded.model.config).opening, *encode_text(loaded.tokenizer, "It is, yes. And")]
    given = len(written)
    for _ in range(12):
        states = loaded.keep.states(trunk_of(loaded.model), torch.tensor([written]), [len(written)])
        logits = loaded.model.get_output_embeddings()(states[0, -1])
        logits[loaded.model.config.eos_token_id] = -torch.inf  # min_new_tokens
        written.append(int(logits.argmax()))
    assert new.num_tokens == 12
    assert make_processor().decode(written[given:]) == new.text


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_texts_are_written_together_as_each_alone_and_a_seed_draws_the_same(family):
    loaded, texts = make(family), ["Hello, you. And", "H", "", "One, two, three. Four"]
    how = Writing(14, seed=3, settings=dict(do_sample=True))
    together = [(one.text, one.finish_reason) for one in loaded.write_texts(texts, how)]
    assert together == [(one.text, one.finish_reason) for one in loaded.write_texts(texts, how)]
    assert together[0] == (loaded.write(texts[0], how).text, together[0][1])
    first = [loaded.write(text, Writing(14, settings=dict(do_sample=False))).text for text in texts]
    assert first == [one.text for one in loaded.write_texts(texts, Writing(14, settings=dict(do_sample=False)))]


def test_what_it_writes_is_streamed_and_ends_where_it_is_told():
    class Shown(list):
        def put(self, value):
            self.append(value.flatten().tolist())

        def end(self):
            self.append("end")

    loaded, shown = make(), Shown()
    written = loaded.write("Hello", Writing(6, settings=dict(min_new_tokens=6)), shown)
    assert [len(part) for part in shown] == [6, *[1] * 6, 3]
    stopped = loaded.write("Hello", Writing(6, settings=dict(min_new_tokens=6, stop_strings=[written.text[3]])))
    assert (stopped.text, stopped.finish_reason) == (written.text[: written.text.index(written.text[3])], "stop")
    room = loaded.write("Hello", Writing(999, settings=dict(min_new_tokens=999)))
    assert (room.num_tokens, room.finish_reason) == (64 - 5, "context")


def test_the_cache_that_is_timed_is_the_window_and_the_ends():
    loaded = make(window=4, processor=False)
    found = loaded.time(TEXT, 10)
    assert found.num_new_tokens == 10
    assert found.cache_bytes == 5 * position_bytes(loaded.model.config, loaded.model.dtype)
    assert found.num_cached_tokens == 1 + len(TEXT) + 10 - 1  # the opening one; the last one is not read
    assert found.tokens_per_position == found.num_cached_tokens / 5
    assert found.cache_bytes == loaded.cache_bytes(50, 9)
    with_ends = make(window=4)
    assert found.cache_bytes < with_ends.time(TEXT, 10).cache_bytes < loaded_as(loaded.model).time(TEXT, 10).cache_bytes
    assert with_ends.cache_bytes(50, 10) == with_ends.cache_bytes(4, 1) // 5 * (5 + 9)
    assert not with_ends.can_copy(10, 5)


def test_eight_bits_go_with_it():
    loaded = make(hidden_size=32, num_attention_heads=2)
    loaded.pack("int8")
    assert loaded.write("Hello", Writing(4)).num_tokens <= 4


@pytest.mark.parametrize(
    ("how", "named"),
    [
        (lambda: dict(settings=dict(prompt_lookup_num_tokens=3)), "--prompt_lookup_num_tokens"),
        (lambda: dict(settings=dict(cache_implementation="static")), "--compile"),
        (lambda: dict(assistant=SentenceAssistant(make_family_sllm())), "--assistant"),
    ],
)
def test_what_needs_the_whole_cache_is_refused_by_name(how, named):
    with pytest.raises(ValueError, match=f"{named}.* does not go with keep_window=4.*Leave one of the two out"):
        make().write("Hello", Writing(4, **how()))


def test_a_configuration_says_what_is_kept():
    plain = loaded_as(make_lm("llama"))
    assert as_configured(plain, make_processor) is plain
    plain.model.config.keep_window = 5
    kept: Any = as_configured(plain, make_processor)
    assert (kept.keep.window, kept.keep.processor.rule, kept.plain) == (5, "punctuation", True)
    plain.model.config.keep_ends = False
    kept = as_configured(plain, make_processor)
    assert kept.keep == KeptWindow(5)
    plain.model.config.training_context = 4
    with pytest.raises(ValueError, match="keep_window=5: of the 4 positions"):
        as_configured(plain, make_processor)
