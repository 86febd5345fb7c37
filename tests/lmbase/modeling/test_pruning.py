"""A model of the first and last layers of another computes what those layers compute, cached, saved and loaded."""

import pytest
import torch
from tiny import LMS, make_lm
from transformers import AutoModelForCausalLM

from lmbase.modeling.pruning import keep_layers, layers_to_keep
from lmbase.modeling.trunk import blocks, trunk_of

IDS = torch.randint(4, 260, (2, 9), generator=torch.Generator().manual_seed(0))


def skip(block, args, output):
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]


@pytest.mark.parametrize("shape", LMS)
@torch.no_grad()
def test_kept_layers_compute_what_they_did_and_their_caches_are_theirs(shape, tmp_path):
    lm = make_lm(shape, num_hidden_layers=5)
    smaller = keep_layers(lm, "1+2").eval()
    for number in (1, 2):
        blocks(trunk_of(lm))[number].register_forward_hook(skip)
    expected = lm(IDS, use_cache=False).logits
    torch.testing.assert_close(smaller(IDS, use_cache=False).logits, expected)
    read = smaller(IDS[:, :4], use_cache=True)
    assert len(read.past_key_values) == smaller.config.num_hidden_layers == 3
    rest = smaller(IDS[:, 4:], past_key_values=read.past_key_values).logits
    torch.testing.assert_close(torch.cat([read.logits, rest], 1), expected, atol=1e-5, rtol=1e-4)
    smaller.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(IDS, use_cache=False).logits, expected)
    with pytest.raises(ValueError, match=r"keep_layers=3\+3: .* more than the 5"):
        keep_layers(lm, "3+3")


@pytest.mark.parametrize("spec", ["", "8", "8-6", "0+0", "-1+4", "8 + 6", "8+6+2", "1.5+2", "a+b"])
def test_what_names_no_layers_is_refused(spec):
    with pytest.raises(ValueError, match=r"write FIRST\+LAST"):
        layers_to_keep(spec, 16)


def test_one_side_may_be_empty():
    assert layers_to_keep("8+0", 8) == (8, 0)
    assert layers_to_keep("0+3", 8) == (0, 3)
