"""What ends a text beside its mark and its length."""

import pytest
import torch
from tiny import make_processor
from transformers import GenerationConfig

from lmbase.modeling.endings import EndedByRules, Endings

TOKENIZER = make_processor().tokenizer
A, B = TOKENIZER.convert_tokens_to_ids(["a", "b"])


def test_nothing_is_watched_where_nothing_is_asked_for():
    assert not Endings(GenerationConfig()).watching
    assert not Endings(GenerationConfig(eos_token_id=[2, 5])).watching
    assert Endings(GenerationConfig(eos_token_id=[2, 5])).ids == {5}


def test_texts_of_a_batch_are_followed_apart():
    endings = Endings(GenerationConfig(stop_strings=["ab"]), None, TOKENIZER, [[2], [2]])
    assert [endings.reason(text, token, list) for text, token in ((0, A), (1, B), (1, A), (0, B))] == [
        *[""] * 3,
        "stop",
    ]
    assert endings.shown(0, "ab") == ""
    assert endings.shown(1, "ba") == "ba"


@pytest.mark.parametrize("answer", [True, torch.tensor([True]), torch.tensor(True)])
def test_criteria_see_one_text_and_may_answer_in_their_way(answer):
    seen = []

    def criterion(ids, scores):
        seen.append(ids.tolist())
        return answer

    endings = Endings(GenerationConfig(), [criterion])
    assert endings.reason(0, A, lambda: [2, A]) == "stop"
    assert seen == [[[2, A]]]


def test_time_ends_a_text_after_a_token():
    assert Endings(GenerationConfig(max_time=0.0)).reason(0, A, list) == "time"
    assert Endings(GenerationConfig(max_time=1000.0)).reason(0, A, list) == ""


@pytest.mark.parametrize(
    ("config", "criteria", "words"),
    [({}, len, "give a list of stopping criteria"), (dict(stop_strings=["a"]), None, "has no tokenizer")],
)
def test_what_cannot_be_asked_is_told(config, criteria, words):
    with pytest.raises(ValueError, match=words):
        Endings(GenerationConfig(**config), criteria)


def test_transformers_hears_why_each_text_ended():
    """One by a string, one by a mark, which no string is looked for in; what follows either changes nothing."""
    config = GenerationConfig(stop_strings=["b"])
    rules = EndedByRules(Endings(config, None, TOKENIZER, [[2], [2]]), [2], padding=(0, 0))
    columns, heard = torch.tensor([[A, A], [B, A], [A, 2]]), []
    for number in range(1, 4):
        heard.append(rules(torch.cat([torch.tensor([[2], [2]]), columns[:number].T], dim=1), None).tolist())
    assert heard == [[False, False], [True, False], [True, True]]
    assert (rules.found, rules.lengths) == (["stop", ""], [3, 4])
