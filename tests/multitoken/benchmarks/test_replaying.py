"""Acceptance that was measured is read and replayed."""

from typing import Any

import pytest
import torch
from counting import TREE

from lmbase.modeling.trunk import new_config
from lmbase.report.rows import Row, write_metrics
from multitoken import MultiTokenLMConfig
from multitoken.benchmarks.measuring import accepted_counts
from multitoken.benchmarks.replaying import ReplayedLM, new_replayed, read_acceptance
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


def test_acceptance_is_read_from_what_drafting_wrote(tmp_path):
    write_metrics(tmp_path, drafting_rows(), config={}, seed=0, wall_seconds=1, corpus=None)
    drafts = read_acceptance(str(tmp_path))
    assert (drafts.model, drafts.options) == ("small", dict(num_future_tokens=3, draft_transitions=False))
    assert {way.name: sorted(way.counts) for way in drafts.ways} == {
        "3 heads": [0, 0, 1, 2],
        "tree": [1, 1, 1, 2, 2, 2],
        "auto": [0, 0, 1, 2],  # what the longest draft found
        "auto tree": [1, 1, 1, 2, 2, 2],
    }


def test_acceptance_of_another_recipe_is_refused(tmp_path):
    write_metrics(tmp_path, [Row("a", protocol="train")], config={}, seed=0, wall_seconds=1, corpus=None)
    with pytest.raises(ValueError, match="no drafts of single texts"):
        read_acceptance(str(tmp_path))
    assert accepted_counts(SpeculationStatistics()) == []


def test_as_many_heads_come_on_top_of_a_model_of_a_size(tmp_path):
    write_metrics(tmp_path, drafting_rows(), config={}, seed=0, wall_seconds=1, corpus=None)
    model = new_replayed("tiny", read_acceptance(str(tmp_path)), 300, 0)
    assert (len(model.heads), bool(model.draft_transitions), model.config.vocab_size) == (3, False, 300)
