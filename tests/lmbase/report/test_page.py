"""What the report's page shows: colours by model, cards only where there is something to compare."""

import json

from lmbase.report.collect import Curve, Report, collect
from lmbase.report.page import figures_json, page_values
from lmbase.report.rows import Row


def report_of(*rows, curves=()):
    return Report("title", curves=list(curves), metrics={"run": {"rows": list(rows)}})


def test_G10_a_model_has_one_colour_on_the_whole_page():
    curves = [Curve(name, {}, {"nats": [(1, 2.0)]}, {1: 9.0}, 1.0) for name in ("vae", "opt_tuned")]
    values = page_values(report_of(Row("opt"), Row("opt-tuned"), curves=curves))
    (card,) = cards_of(values, "Training")
    assert [(name, colour) for colour, name, _ in card.legend] == [("vae", "var(--c2)"), ("opt tuned", "var(--c1)")]


def cards_of(values, heading):
    return next((section.cards for section in values["sections"] if section.heading == heading), [])


def test_the_frontier_needs_two_models_of_the_same_text_and_protocol():
    rows = [Row(name, data=data, bits_per_byte=2.0, tokens_per_second=9.0) for name, data in (("a", "d"), ("c", "e"))]
    assert page_values(report_of(*rows))["frontier"] == []
    (card,) = page_values(report_of(*rows, Row("b", data="d", bits_per_byte=1.0, tokens_per_second=7.0)))["frontier"]
    assert ">c<" not in card.chart
    assert ">b<" in card.chart


def test_evaluations_stand_over_tokens_where_every_run_counted_them(runs):
    values = page_values(collect(runs))
    assert ">tokens of text seen<" in cards_of(values, "Training")[0].chart
    curve = Curve("a", {}, {"nats": [(1, 2.0), (2, 1.0)]}, {1: 9.0}, 1.0)
    (card,) = cards_of(page_values(report_of(curves=[curve])), "Training")
    assert ">step<" in card.chart


def test_white_space_stays_outside_a_mark(runs):
    (first, second) = page_values(collect(runs))["reconstructions"]
    assert first["before"] == [("The", False), (" ", False), ("cat", True), (" sat.", False)]
    assert (first["exact"], second["exact"]) == (False, True)


def test_G10_no_chart_lays_perplexity_per_own_token_of_several_kinds_side_by_side():
    kinds = {"vae": ("perplexity",), "opt": ("perplexity", "bits_per_byte"), "sllm": ("perplexity", "bits_per_byte")}
    curves = [Curve(name, {}, {key: [(1, 2.0)] for key in keys}, {1: 9.0}, 1.0) for name, keys in kinds.items()]
    charts = {
        card.heading: [name for _, name, _ in card.legend]
        for card in cards_of(page_values(report_of(curves=curves)), "Training")
    }
    assert charts == {"perplexity": ["vae"], "bits/byte": ["opt", "sllm"]}


def test_texts_of_one_prompt_stand_side_by_side_and_equal_ones_once():
    def sample(model, prompt, text):
        return {"model": model, "prompt": prompt, "text": text, "truth": f"{prompt} goes on", "finish_reason": "length"}

    rows = [
        Row("opt", bits_per_byte=2.0),
        Row("other", bits_per_byte=2.0, extra={"ratio": 1.0, "compared_with": "opt"}),
        Row("sllm", bits_per_byte=2.0, stop_nats=1.0, extra={"ratio": 1.0, "compared_with": "opt"}),
    ]
    report = report_of(*rows)
    for model, text in (("opt", "a"), ("other", "b"), ("sllm", "c"), ("sllm-drafting", "c")):
        report.generations += [sample(model, prompt, text) for prompt in ("one", "two", "three")]
    values = page_values(report)
    assert [prompt["prompt"] for prompt in values["prompts"]] == ["one", "two", "three"]
    assert values["prompts"][0]["texts"][2] == (["sllm", "sllm-drafting"], "c", "length")
    assert values["prompts"][0]["truth"] == "one goes on"
    assert [[names for names, *_ in prompt["texts"]] for prompt in values["lead"]] == [
        [["opt"], ["sllm", "sllm-drafting"]]
    ] * 2


def test_what_is_not_a_number_is_null_for_programs():
    curve = Curve("a", {"token": [(1, float("nan")), (2, 3.0)]}, {}, {1: 9.0}, 1.0)
    content = json.loads(figures_json(report_of(Row("a", bits_per_byte=2.0, extra={"rule": "x"}), curves=[curve])))
    assert content["curves"][0]["losses"]["token"] == [[1, None], [2, 3.0]]
    assert content["metrics"]["run"]["rows"][0]["rule"] == "x"
    assert content["verdict"][0].startswith("a takes 2.0000 bits per byte")


def test_G10_columns_have_their_meaning_beside_them():
    assert "lower is better" in page_values(report_of(Row("a", bits_per_byte=2.0)))["meanings"]["bits/byte"]


def test_damaged_statistics_are_told_and_the_rest_is_shown():
    report = report_of(Row("opt", bits_per_byte=2.0))
    whole = {"splits": {"train": {"sentences": 2, "tokens": 9, "tokens_per_sentence": [0, 1, 0, 0, 1]}}}
    report.statistics = {"good": whole, "bad": {"splits": {"train": {"sentences": "two", "tokens": 9}}}}
    values = page_values(report)
    assert [section.heading for section in values["sections"]].count("Data: good") == 1
    assert "statistics.json of bad is damaged" in values["left_out"][0]
