"""What the verdict says: a difference only where an interval shows it, and nothing where nothing is known."""

from typing import Any

import pytest

from lmbase.report.rows import Row
from lmbase.report.story import find_story


def rows(quality=(0.9, 0.85, 0.95), speed=(2.0, 1.8, 2.2), equal=None, rounds=5, **changes):
    """An autoregressive baseline, another model, and the sentence-level one."""

    def compared(ratios, name):
        return dict(zip((name, f"{name}_low", f"{name}_high"), ratios, strict=False)) | {"compared_with": "opt"}

    common: dict[str, Any] = dict(data="d", protocol="full window")
    opt = Row("opt", bits_per_byte=2.0, tokens_per_second=100.0, kv_bytes_per_token=4096.0, parameters=1000, **common)
    other = Row("mtp", bits_per_byte=1.0, extra=compared((0.5, 0.4, 0.6), "ratio"), **common)
    extra = compared(quality, "ratio") | compared(speed, "speed_ratio") | {"rounds": rounds, "fixed_cache_bytes": 500}
    figures = dict(bits_per_byte=1.8, stop_nats=1.0, tokens_per_second=200.0, kv_bytes_per_token=512.0, parameters=2000)
    found = [opt, other, Row("sllm", **{**common, **figures, **changes}, extra=extra)]
    if equal:
        extra = compared(equal, "ratio")
        found.append(Row("sllm", data="d", protocol="equal context", bits_per_byte=1.9, stop_nats=1.0, extra=extra))
    return found


def sentences(*args, **kwargs):
    story = find_story(rows(*args, **kwargs))
    assert story is not None
    return story.sentences


def test_three_sentences_about_the_sentence_level_model():
    assert sentences() == [
        "sllm is ahead of opt: 0.900 times its bits per byte of unseen text (95% interval 0.850 to 0.950).",
        "It writes faster: 2.00 times the speed of opt (1.80 to 2.20 in 5 rounds), 200.0 against 100.0 tokens per "
        "second.",
        "Its cache is 8 times smaller than opt's: 512 bytes a token of text against 4,096, beside a fixed 500 B; in "
        "parameters it is 2 times as large as opt: 2.00k against 1.00k.",
    ]


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ((1.0, 0.99, 1.01), "is level with opt"),
        ((0.99, 0.98, 1.0), "is level with opt"),  # an interval that ends in 1 holds it
        ((1.2, 1.1, 1.3), "is behind opt"),
        ((0.8,), "takes 0.800 times the bits per byte of opt, which names no difference: one document"),
        ((0.8, None, None), "names no difference"),
    ],
)
def test_G10_quality_is_named_as_the_interval_says(ratios, told):
    assert told in sentences(quality=ratios)[0]


@pytest.mark.parametrize(
    ("ratios", "rounds", "told"),
    [
        ((1.1, 0.9, 1.3), 5, "writes as fast as opt, as far as the rounds tell (0.90 to 1.30"),
        ((0.5, 0.4, 0.6), 5, "It writes slower: 0.50 times"),
        ((2.0, 2.0, 2.0), 1, "in one round, which names no difference"),
        ((2.0,), None, "in one round, which names no difference"),
        ((), None, "It writes 200.0 tokens per second."),
    ],
)
def test_G9_speed_is_named_where_every_round_shows_it(ratios, rounds, told):
    assert told in sentences(speed=ratios, rounds=rounds)[1]


def test_equal_context_is_told_beside():
    assert sentences(equal=(0.9, 0.8, 0.95))[0].endswith("; with equal context it is, too (0.800 to 0.950).")
    assert sentences(equal=(1.0, 0.9, 1.1))[0].endswith("; with equal context it is level with it (0.900 to 1.100).")
    assert sentences(equal=(1.0,))[0].endswith("0.950).")


@pytest.mark.parametrize(
    ("own", "told"),
    [(2000, "; 2.00k training tokens against 1.00k favour sllm."), (500, "favour opt."), (1040, "0.950).")],
)
def test_a_baseline_that_has_seen_other_amounts_of_text_is_told(own, told):
    found = rows(training_tokens=own)
    found[0].training_tokens = 1000
    story = find_story(found)
    assert story is not None
    assert story.sentences[0].endswith(told)


def test_what_grew_is_said_as_well():
    size = sentences(kv_bytes_per_token=8192.0, parameters=1000)[-1]
    assert "Its cache is 2 times as large as opt's: 8,192 bytes a token of text against 4,096" in size
    assert "in parameters it is as large as opt: 1.00k" in size
    assert sentences(kv_bytes_per_token=None)[-1].startswith("In parameters it is 2 times as large as opt")
    assert sentences(kv_bytes_per_token=None, parameters=None)[2:] == []
    assert "it is as large as opt: 1.00k against 1.00k" in sentences(parameters=1001)[-1]  # not "1 times as large"


def test_one_model_and_no_baseline_claim_nothing():
    story = find_story([Row("opt", bits_per_byte=2.0, tokens_per_second=9.0, kv_bytes_per_token=4.0)])
    assert story is not None
    assert story.sentences[0].startswith(
        "opt takes 2.0000 bits per byte of unseen text; no ratio to a baseline stands beside it"
    )
    assert len(story.sentences) == 2
    assert list(story.table().head) == ["", "opt"]
    assert find_story([Row("vae", reconstruction_exact_match=0.5)]) is None
    assert find_story([Row("paper's", protocol="published", bits_per_byte=1.0)]) is None
    assert find_story([Row("probed", protocol="tokens and ends", bits_per_byte=1.0)]) is None  # flags left out
    assert find_story([]) is None


def test_a_figure_that_is_no_number_is_no_figure():
    found = rows(quality=(float("nan"), 0.1, 0.2), speed=("fast", True, None))
    story = find_story([found[0], found[2]])
    assert story is not None
    assert "nan" not in " ".join([*story.sentences, *(cell for line in story.table().lines for cell in line)])


def test_a_baseline_of_another_text_is_none():
    found = rows()
    found[0].data = "another"
    story = find_story(found)
    assert story is not None
    assert story.baseline is None
    assert "ahead" not in " ".join(story.sentences)


def test_a_baseline_is_that_of_the_same_evaluation():
    another = Row("opt", data="d", protocol="full window", bits_per_byte=2.0, tokens_per_second=7.0)
    story = find_story([another], rows())
    assert story is not None
    assert "200.0 against 100.0 tokens per second" in story.speed()
    found = rows()
    found[0].bytes, found[2].bytes = 1000, 5000  # another split, of the same name
    story = find_story(found)
    assert story is not None
    assert story.baseline is None


def test_the_few_figures_behind_it():
    story = find_story(rows())
    assert story is not None
    lines = {line[0]: list(line[1:]) for line in story.table().lines}
    assert lines["bits/byte"] == ["1.8000", "2.0000", "0.900 (0.850\u00a0to\u00a00.950)"]
    assert lines["KV bytes/token"] == ["512.0", "4,096", "0.125"]
    assert "training tokens" not in lines
