"""Groups of sentences hold every sentence once, with little padding, in few shapes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lmbase.text.padding import pad_tokens
from sentencevae.grouping import GROUP_TOKENS, PackedTokens, length_groups

MOST = 64


def packed(rows):
    ids, mask = pad_tokens(rows, 1)
    embed = torch.nn.Embedding(200, 1)
    with torch.no_grad():
        embed.weight.copy_(torch.arange(200.0)[:, None])  # a token's vector is its id
    return ids, mask, PackedTokens.of(embed, ids, mask, 2)


@given(st.lists(st.integers(1, MOST), min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_every_sentence_is_in_one_group(lengths, random):
    rows = [[random.randrange(4, 200) for _ in range(length)] for length in lengths]
    ids, mask, tokens = packed(rows)
    seen = []
    for group in length_groups(ids, mask, tokens.rows, MOST):
        assert group.mask.any(1).all()  # those that fill up are sentences, too
        assert group.real.sum() == group.num_real
        for n in range(group.num_real):
            length = int(group.mask[n].sum())
            assert group.ids[n, :length].tolist() == rows[int(group.index[n])]
            assert tokens.inputs(group)[n, :length, 0].tolist() == rows[int(group.index[n])]
            assert tokens.shifted(group)[n, : length + 1, 0].tolist() == [2, *rows[int(group.index[n])]]
        seen += group.index[: group.num_real].tolist()
        assert group.ids.numel() <= max(GROUP_TOKENS["cpu"], MOST)
    assert sorted(seen) == list(range(len(rows)))


def test_shapes_recur():
    """Batches of the same kind of text need few shapes between them, and more than half of them is text."""
    generator = torch.Generator().manual_seed(0)
    shapes, cells, real = set(), 0, 0
    for _ in range(50):
        lengths = torch.empty(200).exponential_(1 / 8, generator=generator).long().clamp(1, MOST)
        ids, mask, tokens = packed([[5] * int(length) for length in lengths])
        for group in length_groups(ids, mask, tokens.rows, MOST):
            shapes.add(tuple(group.ids.shape))
            cells, real = cells + group.ids.numel(), real + int(group.mask[: group.num_real].sum())
    assert len(shapes) < 30
    assert real > 0.5 * cells


def test_filling_up_a_full_group_makes_it_no_larger():
    """21 rows of 24 are what 512 tokens hold, and no multiple of the step that shapes recur by."""
    ids, mask, tokens = packed([[5] * 22] * 40)
    groups = [*length_groups(ids, mask, tokens.rows, MOST)]
    assert max(group.ids.numel() for group in groups) <= GROUP_TOKENS["cpu"]


def test_no_sentence_is_one_empty_group():
    ids, mask = torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3, dtype=torch.bool)
    tokens = PackedTokens.of(torch.nn.Embedding(9, 4), ids, mask, 2)
    (group,) = length_groups(ids, mask, tokens.rows, MOST)
    assert group.num_real == len(group.index) == 0
