"""The sentence-level model as users meet it: text in and out, saving and loading."""

from typing import Any

import pytest
import torch
from tiny import make_sllm, read, rows
from transformers import AutoConfig, AutoModel

from sllm import SLLM, SLLMConfig

PAD = 1
TEXTS = ["One, two and three. Four? Yes, five: six.", "Why", "A very long sentence without a mark. And, end."]


@torch.no_grad()
@pytest.mark.parametrize("load", [SLLM.from_pretrained, AutoModel.from_pretrained])
def test_save_and_load(sllm, tmp_path, load):
    sllm.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    batch = read(sllm, TEXTS)
    torch.testing.assert_close(vars(loaded.nats(**batch)), vars(sllm.nats(**batch)), rtol=0, atol=0)
    outputs = [model.generate(text=TEXTS, max_new_tokens=20).sequences for model in (loaded, sllm)]
    assert torch.equal(*outputs)
    assert loaded.processor.fingerprint == sllm.processor.fingerprint
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, SLLMConfig)
    assert (config.num_memory_states, config.trunk.ffn_dim) == (sllm.config.num_memory_states, 32)


def test_a_text_may_come_first(sllm):
    assert rows(sllm.generate("He said", max_new_tokens=9)) == rows(sllm.generate(text="He said", max_new_tokens=9))


@torch.no_grad()
def test_a_mean_over_items_has_no_share_of_ends_that_were_cut_short(sllm):
    """The mean is taken over the targets that are learnt, and goes into the step's mean by their number."""
    batch = read(sllm, TEXTS)
    told = dict(batch, cut_short=batch["sentence_mask"])
    (targets,) = {int(sllm.loss_counts(**told)[name]) for name in ("token", "stop")}
    assert targets == int(batch["attention_mask"].sum()) < int(sllm.loss_counts(**batch)["token"])
    torch.testing.assert_close(sllm(**told, num_items_in_batch=100).loss, sllm(**told).loss * targets / 100)


def test_dropout_never_touches_what_is_written():
    model = make_sllm(vae=dict(dropout=0.5), opt=dict(dropout=0.5))
    expected = rows(model.generate(text=TEXTS, max_new_tokens=30))
    model.train()
    model.autoencoder.eval()  # as a frozen one is kept
    assert rows(model.generate(text=TEXTS, max_new_tokens=30)) == expected
    assert model.training
    assert model.trunk.training
    assert not model.autoencoder.training


def test_without_a_processor_ids_are_all_there_is():
    model = make_sllm(vae=dict(processor=False))
    output: Any = model.generate(torch.tensor([[[20, 21], [22, PAD]]]), max_new_tokens=5)
    assert (output.texts, output.recut_share) == (None, None)
    assert output.sentence_lengths[0][:2] == [2, 1]
    with pytest.raises(ValueError, match="no processor"):
        model.generate(text="a")
