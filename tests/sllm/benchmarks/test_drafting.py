"""Acceptance of a trained model is counted, and replayed on a multi-token model of another size."""

import pytest
from counting import TREE
from tiny import make_sllm

from multitoken.benchmarks.measuring import Way
from multitoken.benchmarks.replaying import Drafts
from sllm.benchmarks.drafting import Replayed, measured_acceptance


def test_acceptance_of_a_trained_model_counts_every_draft():
    model = make_sllm(num_future_tokens=3)
    ways = {way.name: way for way in measured_acceptance(model, ["Yes, no.", "One", "Two and", "Three."], 12)}
    assert list(ways) == ["2 heads", "3 heads", "tree of 4", "tree of 8"]
    assert set(ways["2 heads"].counts) <= {0, 1}
    assert all(way.counts and set(way.counts) <= {0, 1, 2} for way in ways.values())
    tree = ways["tree of 8"].tree
    assert tree is not None
    assert 2 <= len(tree.nodes) <= 9  # a random model has few candidates that are ever right


@pytest.mark.long
def test_rows_of_replayed_drafts(monkeypatch):
    ways = [Way("3 heads", 3, None, [0, 0, 1, 2]), Way("tree", 3, TREE, [1, 1, 1, 2, 2, 2]), Way("auto", "auto")]
    drafts = Drafts("small", dict(num_future_tokens=3, draft_transitions=False), ways)

    def measure(**keys):
        keys |= dict(prompt_tokens=[2], new_tokens=41, rounds=1, dtype="fp32", device="cpu")
        return Replayed(**keys).rows("tiny", drafts)

    rows = measure()
    assert {row.model for row in rows} == {"tiny"}
    assert {row.protocol for row in rows} == {"replay 2+41, acceptance of small"}
    found = {row.extra["way"]: row for row in rows}
    assert list(found) == ["Transformers", "plain", "3 heads", "tree", "auto", "auto, nothing accepted"]
    assert found["plain"].extra["tokens_per_forward"] == 1
    assert found["tree"].extra["tokens_per_forward"] == pytest.approx(2.5, abs=0.2)
    assert found["auto, nothing accepted"].extra["tokens_per_forward"] == 1
    assert found["Transformers"].extra["speed_ratio"] == found["plain"].extra["plain_ratio"] == 1
    settings = dict(cache_implementation="static", disable_compile=True)
    monkeypatch.setattr("lmbase.benchmarking.timing.compile_settings", lambda device: settings)
    both = {row.extra["way"]: row.extra.get("tokens_per_forward") for row in measure(compiled=True, ways=["3 heads"])}
    chosen = ["Transformers", "plain", "3 heads", "auto, nothing accepted"]
    assert list(both) == chosen + [f"{way}, compiled" for way in chosen]
    assert both["3 heads, compiled"] == both["3 heads"]
