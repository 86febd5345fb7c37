"""What drafting brought, counted; drafts that cannot be made."""

import pytest

from multitoken.draft_tree import DraftTree
from multitoken.speculation import SpeculationStatistics, check_drafts


def test_statistics_count_a_draft_only_where_the_one_before_it_was_accepted():
    found = SpeculationStatistics()
    found.add(3, 3, 4)
    found.add(3, 1, 2)
    found.add(3, 0, 1)
    found.add(0, 0, 1)
    assert (found.num_forwards, found.num_tokens, found.tokens_per_forward) == (4, 8, 2.0)
    assert (found.offered, found.accepted) == ([3, 2, 1], [2, 1, 1])
    assert found.acceptance == [2 / 3, 1 / 2, 1.0]


def test_what_another_call_brought_is_added_depth_by_depth():
    found, other = SpeculationStatistics(), SpeculationStatistics()
    found.add(1, 1, 2)
    other.add(2, 0, 1)
    found.include(other)
    assert (found.num_forwards, found.num_tokens) == (2, 3)
    assert (found.offered, found.accepted) == ([2, 0], [1, 0])
    assert SpeculationStatistics().tokens_per_forward == 0


def test_drafts_are_as_deep_as_was_asked_for():
    tree = DraftTree(((0,), (1,), (0, 0)))
    assert check_drafts(2, tree, 3, 64, None) == (tree.pruned(1), False)
    assert check_drafts("auto", None, 3, 64, None) == (DraftTree.chain(2), True)
    with pytest.raises(ValueError, match="takes 3 heads; this model has 2"):
        check_drafts("auto", tree, 2, 64, None)
