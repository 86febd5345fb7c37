"""What evaluation tells beside its table: every bit is at one place, and the file stays small."""

import json

import numpy as np
import pytest
from families import MAKERS, loaded_as, make_lm
from tiny import make_processor, make_vae

from lmbase.text import RULES
from sllm.evaluation import details
from sllm.evaluation.details import find_details

TEXT = "One, two, three. Four and five! "


def load(*names):
    return [loaded_as(make_vae() if name == "vae" else MAKERS[name]("llama"), name) for name in names]


@pytest.mark.parametrize("name", MAKERS)
def test_the_tokens_of_an_opening_cost_what_the_text_costs(name):
    (loaded,) = load(name)
    (scored,) = loaded.score([TEXT], 64)["full window"]
    sentences = make_processor().encode(TEXT).sentences()
    *found, _ = loaded.costs(sentences)
    assert [len(nats) for nats in found] == [len(sentence) for sentence in sentences]
    # The text's end is not scored: a token-level model's closing token, a sentence-level model's last flag.
    whole = sum(scored.token) + sum(scored.stop[:-1]) if scored.stop else sum(scored.token[:-1])
    assert sum(map(sum, found)) == pytest.approx(whole, rel=1e-5)


def test_all_details_of_all_kinds_are_plain_and_finite():
    found = find_details(load("plain", "vae", "sentences", "heads"), [TEXT * 2, TEXT + "Six."], [TEXT], 8, 12)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {"drafts", "cost", "places", "tokens_per_sentence", "vectors"}
    assert list(found["cost"]) == ["plain", "sentences", "heads"]
    assert set(found["cost"]["sentences"]) == {"trunk", "encoder", "decoder", "vocabulary", "drafts"}
    for place in ("in_sentence", "in_text"):
        sums = {name: np.sum(sums, axis=0) for name, sums in found["places"][place].items()}
        assert list(sums) == ["plain", "sentences", "heads"]
        assert len({size for _, size in sums.values()}) == 1  # the same bytes for all
    of_sentence, of_text = (found["places"][place]["sentences"] for place in ("in_sentence", "in_text"))
    assert sum(nats for nats, _ in of_sentence) == pytest.approx(sum(nats for nats, _ in of_text))
    assert list(found["tokens_per_sentence"]) == [rule for rule in RULES if rule != "learned"]
    assert found["vectors"]["model"] == "sentences"
    assert 0 < found["vectors"]["share"] <= 1
    for counts in found["drafts"].values():
        assert all(accepted <= offered for offered, accepted in zip(counts["offered"], counts["accepted"], strict=True))
    assert list(found["drafts"]) == ["sentences", "heads"]


def test_the_parts_of_a_token_s_cost_are_those_of_the_training_cost():
    (plain, sentences) = load("plain", "sentences")
    assert sum(sentences.flops_by_part(70, 10).values()) == sentences.model.flops(70, 10)
    longer, shorter = (sentences.flops_by_part(70, number)["trunk"] for number in (5, 10))
    assert longer == shorter / 2
    assert plain.flops_by_part(70, 5) == plain.flops_by_part(70, 10)


def test_models_that_cut_no_sentences_have_few_details():
    assert find_details([loaded_as(make_lm())], [TEXT], [TEXT], 8, 8) == {}
    (heads,) = load("heads")
    assert set(find_details([heads], [TEXT], [TEXT], 8, 8)) == {"drafts"}
    assert find_details([heads], [TEXT], [], 8, 8) == {}


def test_a_text_of_one_sentence_has_no_map_and_one_longer_than_a_window_no_places():
    plain, sentences = load("plain", "sentences")
    found = find_details([plain, sentences], ["One."], [], 8, 8)
    assert "vectors" not in found
    plain.model.config.training_context = 3
    assert "places" not in find_details([plain, sentences], ["One two three four."], [], 8, 8)
    assert "places" not in find_details(load("vae"), [TEXT], [], 8, 8)


def test_the_file_is_small_whatever_the_corpus(monkeypatch):
    models = load("plain", "sentences")
    monkeypatch.setattr(details, "MOST_CHARACTERS", 2000)
    monkeypatch.setattr(details, "NUM_VECTORS", 20)
    seen: list[int] = []

    def ones(self, sentences):
        seen.extend(len(sentence) for sentence in sentences)
        return [*([1.0] * len(sentence) for sentence in sentences), [1.0]]

    monkeypatch.setattr(type(models[1]), "costs", ones)
    monkeypatch.setattr(details, "MOST_TOKENS", 300)
    found = find_details(models, ["字. " + TEXT * 1000] * 50, [], 8, 8)
    assert 0 < sum(seen) <= 300
    assert len(found["vectors"]["points"]) == 20
    assert len(json.dumps(found)) < 20_000
