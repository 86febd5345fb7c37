"""What is drawn of an evaluation's details, whatever of them is there."""

import json

import pytest

from lmbase.report.cards import Tints
from lmbase.report.details import Details, detail_sections, read_details
from lmbase.report.write import write_report

WHOLE = {
    "cost": {"opt": {"trunk": 2e6, "vocabulary": 1e6}, "sllm": {"trunk": 1e5, "encoder": 2e5, "vocabulary": 1e6}},
    "places": {
        "in_sentence": {"opt": [[200.0, 150], [150.0, 150], [9.0, 3]], "sllm": [[100.0, 150], [90.0, 150]]},
        "in_text": {"opt": [[350.0, 300]], "sllm": [[190.0, 300]]},
        "of a later version": {"opt": [[1.0, 900]]},
    },
    "tokens_per_sentence": {"punctuation": [0, 3, 5, 2], "line": [0, 0, 0, 4], "nothing": []},
    "drafts": {"sllm": {"offered": [9, 3, 0], "accepted": [3, 1, 0]}},
    "vectors": {
        "model": "sllm",
        "share": 0.5,
        "points": [[0.0, 1.0, 4, ' <script>"'], [1.0, 0.0, 7, "\u0645\u0631\u062d\u0628\u0627"], [2.0, 0.5, 7, "字"]],
    },
    "of a later version": 3,
}  # fmt: skip


def read(tmp_path, content):
    path = tmp_path / "details.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_details(path)


def test_each_part_is_drawn(tmp_path):
    sections = {s.heading: s.cards for s in detail_sections(read(tmp_path, WHOLE), Tints()) if s.cards}
    assert {heading: len(cards) for heading, cards in sections.items()} == {
        "Where in a text the bits go": 2,
        "What a token costs": 1,
        "Drafts accepted by position": 1,
        "Sentence vectors": 1,
        "Tokens per sentence, by rule of cutting": 2,
    }
    by_position = sections["Where in a text the bits go"][0]
    assert [(name, last) for _, name, last in by_position.legend] == [("opt", "1.443"), ("sllm", "0.8656")]
    (cost,) = sections["What a token costs"]
    assert [name for _, name, _ in cost.legend] == ["trunk", "encoder", "vocabulary"]  # in the order of the work
    assert ">3.00M<" in cost.chart
    assert [last for *_, last in sections["Drafts accepted by position"][0].legend] == ["0.3333"]
    (vectors,) = sections["Sentence vectors"]
    assert '<title>&lt;script&gt;" (4 tokens)</title>' in vectors.chart
    assert [name for _, name, _ in vectors.legend] == ["4 to 4 tokens", "5 to 7 tokens"]


@pytest.mark.parametrize("part", list(WHOLE))
def test_a_part_that_is_absent_is_left_out(tmp_path, part):
    sections = detail_sections(read(tmp_path, {part: WHOLE[part]}), Tints())
    assert len([section for section in sections if section.cards]) == (part != "of a later version")


def test_figures_that_are_not_finite_are_not_drawn(tmp_path):
    places = {"in_sentence": {"opt": [[float("nan"), 150], [float("nan"), 150]]}}
    found = read(
        tmp_path, {"places": places, "cost": {}, "vectors": None, "drafts": {"a": {"offered": [], "accepted": []}}}
    )
    assert [section for section in detail_sections(found, Tints()) if section.cards] == []
    assert detail_sections(Details(), Tints())[0].cards == []


@pytest.mark.parametrize(
    "content", ["[]", '{"cost": 3}', '{"drafts": {"a": {}}}', "\x00", '{"vectors": {"points": [1]}}']
)
def test_a_file_of_another_shape_is_named_and_stops_nothing(tmp_path, content, runs):
    with pytest.raises(ValueError, match=r"details\.json"):
        read(tmp_path, content)
    (runs / "evaluate" / "details.json").write_text(content, encoding="utf-8")
    assert "details.json" in write_report(runs)[0].read_text(encoding="utf-8")
