"""From a plain model to heads on it, and back."""

import pytest
import torch
from tiny import LMS, make_lm, make_mtp, make_opt
from transformers import BertConfig, BertLMHeadModel

from lmbase.modeling.devices import moved
from multitoken import MultiTokenLM, MultiTokenLMConfig
from multitoken.heads import HEAD_KINDS

POST_NORM = dict(hidden_size=16, word_embed_proj_dim=8, do_layer_norm_before=False)  # OPT-350M's shape
IDS = torch.tensor([[10, 11, 12, 13, 14], [20, 21, 22, 1, 1]])


@torch.no_grad()
@pytest.mark.parametrize("shape", [{}, POST_NORM, dict(tie_word_embeddings=False)], ids=["pre", "post", "untied"])
@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_head_1_is_the_opt_that_it_came_from_bit_for_bit(kind, shape):
    opt = make_opt(num_hidden_layers=3, **shape)
    if kind == "anticausal" and shape == POST_NORM:
        with pytest.raises(ValueError, match="normalises after"):
            MultiTokenLM.from_lm(opt, 3, kind)
        return
    model = MultiTokenLM.from_lm(opt, 3, kind)
    ids = torch.tensor([[2, 10, 11, 12]])
    assert torch.equal(model.logits(ids), opt(ids).logits)
    if HEAD_KINDS[kind].is_block and not HEAD_KINDS[kind].reads_all:
        assert torch.equal(model.to_lm()(ids).logits, opt(ids).logits)
    else:
        with pytest.raises(ValueError, match="no plain model"):
            model.to_lm()


@torch.no_grad()
def test_the_first_heads_alone(mtp):
    one = mtp.with_heads(1)
    assert len(one.heads) == one.config.num_future_tokens == 1
    assert torch.equal(one.logits(IDS), mtp.logits(IDS))
    with pytest.raises(ValueError, match="heads 1 to 3"):
        mtp.with_heads(4)
    with pytest.raises(ValueError, match="none can be taken off"):
        make_mtp(head_kind="anticausal").with_heads(2)


@torch.no_grad()
@pytest.mark.parametrize("shape", LMS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_there_and_back_is_the_same_model(shape, tied, tmp_path):
    """A plain model comes out of one that was trained on, too, and can be saved as one."""
    lm = make_lm(shape, num_hidden_layers=3, tie_word_embeddings=tied)
    ids = torch.tensor([[2, 10, 11, 12]])
    back = MultiTokenLM.from_lm(lm, 3, "causal").to_lm()
    assert (type(back), torch.equal(back(ids).logits, lm(ids).logits)) == (type(lm), True)
    other = make_mtp(lm=lm)
    back = other.to_lm()
    torch.testing.assert_close(back(ids).logits, other.logits(ids))
    half = moved(MultiTokenLM.from_lm(lm, 3), dtype=torch.bfloat16).to_lm()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(
        moved(half, dtype=torch.float32)(ids).logits, lm(ids).logits, rtol=0.1, atol=0.1 * lm(ids).logits.std().item()
    )
    back.save_pretrained(tmp_path)
    assert torch.equal(type(lm).from_pretrained(tmp_path)(ids).logits, back(ids).logits)


def test_impossible_heads_are_refused():
    with pytest.raises(ValueError, match="normalises after"):
        MultiTokenLM.from_lm(make_lm("opt-350m"), 2, "anticausal")
    with pytest.raises(ValueError, match="num_future_tokens=4: with 3 layers in all"):
        MultiTokenLMConfig.matching(make_lm("llama", num_hidden_layers=3).config, 4)


def test_models_that_take_no_heads_are_refused():
    lm = make_lm("gpt2")
    with pytest.raises(ValueError, match="GPT2Model has no vocabulary head"):
        MultiTokenLM.from_lm(lm.transformer, 2)
    lm.lm_head = torch.nn.Linear(32, 260)
    with pytest.raises(ValueError, match="GPT2LMHeadModel adds a bias to its logits"):
        MultiTokenLM.from_lm(lm, 2)
    last_slides = dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)
    with pytest.raises(ValueError, match="Qwen2ForCausalLM attends within sliding windows"):
        MultiTokenLM.from_lm(make_lm("qwen2", **last_slides), 2)
    with pytest.raises(ValueError, match="BertLMHeadModel is of the family 'bert'"):
        MultiTokenLM.from_lm(BertLMHeadModel(BertConfig(num_hidden_layers=1, hidden_size=12)), 2)


def test_settings_of_writing_go_along():
    """What ends texts, and what their owner set."""
    opt = make_opt()
    opt.generation_config.eos_token_id = [2, 77]
    model = MultiTokenLM.from_lm(opt, 2)
    model.generation_config.max_new_tokens = 7
    for made in (model.to_lm(), model.with_heads(1)):
        assert made.generation_config.eos_token_id == [2, 77]
        assert made.generation_config.max_new_tokens == 7
        made.generation_config.max_new_tokens = 1
    assert model.generation_config.max_new_tokens == 7
