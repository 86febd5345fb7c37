"""Acceptance that was measured is read and replayed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from counting import TREE

from lmbase.modeling.trunk import new_config
from lmbase.report.rows import Row, write_metrics
from multitoken import MultiTokenLMConfig
from multitoken.benchmarks.measuring import (
    accepted_counts,
)
from multitoken.benchmarks.replaying import Replay, ReplayedLM, measure_replay, read_acceptance
from multitoken.speculation import SpeculationStatistics


def replayed(**options) -> ReplayedLM:
    shape = dict(hidden_size=64, feed_forward=64, num_hidden_layers=2, num_attention_heads=2)
    lm = new_config("opt", vocab_size=300, max_position_embeddings=128, **shape | options)
    config = MultiTokenLMConfig.matching(lm, 1)
    config.num_future_tokens = 3
    torch.manual_seed(0)
    return ReplayedLM(config).eval()


@pytest.mark.parametrize(
    "options", [{}, dict(word_embed_proj_dim=32, do_layer_norm_before=False)], ids=["125M", "350M"]
)
@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_replayed_drafts_accept_as_many_guesses_as_told(options, tree):
    model = replayed(**options)
    model.replay([0, 2, 1])
    output = model.generate(torch.tensor([[2, 7, 8]]), max_new_tokens=61, min_new_tokens=61, num_draft=3, tree=tree)
    assert output.statistics.tokens_per_forward == 2
    assert accepted_counts(output.statistics) == [10, 10, 10]
    model.replay([2])
    plain = model.generate(torch.tensor([[2, 7, 8]]), max_new_tokens=9, num_draft=1)
    opt: Any = model.to_lm()
    expected = opt.generate(torch.tensor([[2, 7, 8]]), max_new_tokens=9, do_sample=False)
    assert torch.equal(plain.sequences, expected)  # nothing is replaced where nothing is drafted


def drafting_rows() -> list[Row]:
    chain = dict(way="3 heads", num_draft=3, batch_size=1, accepted_counts=[2, 1, 1])
    tree = dict(way="tree", num_draft=3, batch_size=1, accepted_counts=[0, 3, 3], draft_tree=[[0], [1], [0, 0]])
    auto = dict(way="auto", num_draft="auto", batch_size=1, accepted_counts=[9, 0], draft_tree=[[0], [0, 0]])
    auto_tree = dict(tree, way="auto tree", num_draft="auto", accepted_counts=[8, 0])
    more = dict(chain, batch_size=8, accepted_counts=[100, 0, 0])
    return [Row("small", protocol="drafting", extra=extra) for extra in (chain, tree, auto, auto_tree, more)]


def test_acceptance_is_read_from_what_drafting_wrote_and_replayed(tmp_path, monkeypatch):
    write_metrics(tmp_path, drafting_rows(), config={}, seed=0, wall_seconds=1, corpus=None)
    drafts = read_acceptance(str(tmp_path))
    assert (drafts.model, drafts.num_future_tokens, drafts.draft_transitions) == ("small", 3, False)
    assert {way.way: sorted(way.counts) for way in drafts.ways} == {
        "3 heads": [0, 0, 1, 2],
        "tree": [1, 1, 1, 2, 2, 2],
        "auto": [0, 0, 1, 2],  # what the longest draft found
        "auto tree": [1, 1, 1, 2, 2, 2],
    }
    replay = Replay(2, 41, 1, "fp32", "cpu")
    rows = measure_replay(replayed(), "tiny", drafts.ways, replay, drafts.model)
    assert {row.protocol for row in rows} == {"replay 2+41, acceptance of small"}
    found = {row.extra["way"]: row for row in rows}
    assert set(found) == {"Transformers", "plain", "3 heads", "tree", "auto", "auto tree", "auto, nothing accepted"}
    assert found["plain"].extra["tokens_per_forward"] == 1
    assert found["tree"].extra["tokens_per_forward"] == pytest.approx(2.5, abs=0.2)
    assert found["auto, nothing accepted"].extra["tokens_per_forward"] == 1
    assert found["Transformers"].extra["speed_ratio"] == found["plain"].extra["plain_ratio"] == 1
    settings = dict(cache_implementation="static", disable_compile=True)
    monkeypatch.setattr("lmbase.benchmarking.timing.compile_settings", lambda device: settings)
    rows = measure_replay(replayed(), "tiny", drafts.ways[:1], replace(replay, compiled=True), drafts.model)
    both = {row.extra["way"]: row.extra.get("tokens_per_forward") for row in rows}
    ways = ["Transformers", "plain", "3 heads", "auto, nothing accepted"]
    assert list(both) == ways + [f"{way}, compiled" for way in ways]
    assert both["3 heads, compiled"] == both["3 heads"]


def test_acceptance_of_another_recipe_is_refused(tmp_path):
    write_metrics(tmp_path, [Row("a", protocol="train")], config={}, seed=0, wall_seconds=1, corpus=None)
    with pytest.raises(ValueError, match="no drafts of single texts"):
        read_acceptance(str(tmp_path))
    assert accepted_counts(SpeculationStatistics()) == []
