"""Faults 8, 9 and 11 of docs/published-faults.md: parts that are left behind, and what is not finite.

Each test builds the faulty model or function, shows that our check rejects it, and that ours passes the same check.
"""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from published import SENTENCES, as_kind, pad
from safetensors.torch import load_file
from tiny import WIDTH, make_opt, make_sllm, make_vae
from torch import nn
from toy_training import ToyModel, toy_train

from lmbase.modeling.trunk import OPT_SIZES, new_config
from lmbase.report.statistics import bits_per_byte
from sentencevae import SentenceVAE
from sllm import SLLM, SLLMConfig
from sllm_data.corpora import open_corpus

# -- 8: parts of OPT are left behind -----------------------------------------------------------------------------------

# 350M's shape: embeddings narrower than the layers, norms behind the sub-layers and none at the end.
LIKE_350M = dict(word_embed_proj_dim=8, do_layer_norm_before=False)


class BareLayers(SLLM):
    """The trunk is its layers and nothing else, as published."""

    def trunk_states(self, *args):
        decoder: Any = self.trunk.decoder
        left_out = decoder.final_layer_norm, decoder.project_out
        decoder.final_layer_norm = decoder.project_out = None
        states = super().trunk_states(*args)
        decoder.final_layer_norm, decoder.project_out = left_out
        return states


@torch.no_grad()
@pytest.mark.parametrize(("like", "vae_width"), [({}, WIDTH), (LIKE_350M, 8)], ids=["125m", "350m"])
def test_fault_08_final_norm_and_projections(like, vae_width):
    model = make_sllm(vae=dict(hidden_size=vae_width), opt=like)

    def check_last_step(model):
        decoder, last = model.trunk.decoder, []
        module = decoder.final_layer_norm if decoder.project_out is None else decoder.project_out
        hook = module.register_forward_hook(lambda module, inputs, output: last.append(output))
        batch = pad([SENTENCES])
        states = model.trunk_states(model.read(*batch.values()), batch["sentence_mask"])
        hook.remove()
        assert len(last) == 1
        assert torch.equal(states, last[0])
        assert states.shape[-1] == vae_width

    check_last_step(model)
    with pytest.raises(AssertionError):
        check_last_step(as_kind(model, BareLayers))


def test_fault_08_an_autoencoder_made_for_350m_loads_into_its_sllm(tmp_path):
    def check(width):
        make_vae(hidden_size=width).save_pretrained(tmp_path)
        vae = SentenceVAE.from_pretrained(tmp_path)
        model = SLLM.graft(vae, make_opt(**LIKE_350M), max_sentences=16)
        assert torch.equal(model.autoencoder.encoder.positions.weight, vae.encoder.positions.weight)

    check(8)
    with pytest.raises(ValueError, match="hidden_size=8"):
        check(WIDTH)  # as wide as the layers, as published
    trunk = new_config("opt", **OPT_SIZES["opt-350m"])
    SLLMConfig(dict(hidden_size=512, num_attention_heads=8), trunk).check()
    with pytest.raises(ValueError, match="hidden_size=512"):
        SLLMConfig(dict(hidden_size=1024, num_attention_heads=16), trunk).check()


# -- 9: three vocabulary tables ----------------------------------------------------------------------------------------


class ThreeTables(SentenceVAE):
    """Encoder input, decoder input and output have a table each, as published."""

    def __init__(self, config):
        super().__init__(config)
        self.decoder_table = nn.Embedding(config.vocab_size, config.hidden_size)
        self.output_table = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


def test_fault_09_untied_tables(sllm, vae, tmp_path):
    def check(model):
        model.save_pretrained(tmp_path)
        for weights in (dict(model.named_parameters()), load_file(tmp_path / "model.safetensors")):
            assert sum(260 in weight.shape for weight in weights.values()) == 1

    check(vae)
    check(sllm)
    assert sllm.trunk.get_input_embeddings() is None  # a trunk that reads vectors has no table
    with pytest.raises(AssertionError):
        check(ThreeTables(vae.config))


# -- 11: failures become data, NaNs vanish -----------------------------------------------------------------------------


def test_fault_11_failures_become_data_and_nans_dropped(tmp_path):
    (tmp_path / "good.txt").write_text("Good.")
    (tmp_path / "latin.txt").write_bytes("Düne".encode("latin-1"))
    (tmp_path / "missing.jsonl.gz").write_bytes(b"<html>404 Not Found</html>")

    def published_texts() -> list[str]:
        texts = []
        for path in sorted(tmp_path.iterdir()):
            try:
                texts.append(path.read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                texts.append(str(error))
        return texts

    def check_only_data(texts):
        assert texts == ["Good."]

    corpus = open_corpus(str(tmp_path))
    check_only_data([document.text for document in corpus.read("train")])
    names = [name for entry in corpus.skipped["train"].to_dict().values() for name in entry["names"]]
    assert sorted(name.split(" (")[0] for name in names) == ["latin.txt", "missing.jsonl.gz"]
    with pytest.raises(AssertionError):
        check_only_data(published_texts())


class DroppedNaN(ToyModel):
    """A loss that is no number counts as nothing, as published."""

    def forward(self, ids):
        output = super().forward(ids)
        output.losses = {name: loss.nan_to_num() for name, loss in output.losses.items()}
        return output


def test_fault_11_a_nan_is_not_dropped(sllm, tmp_path):
    def check_training_stops(kind):
        model = kind()
        model.poisoned = True
        with pytest.raises(FloatingPointError, match="token nan"):
            toy_train(tmp_path / kind.__name__, model, max_steps=1)

    def check_sum(add_up):
        with pytest.raises(ValueError, match="not finite"):
            add_up([1.0, math.nan])

    check_training_stops(ToyModel)
    check_sum(lambda nats: bits_per_byte(nats, [1, 1]))
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        check_training_stops(DroppedNaN)
    with pytest.raises(pytest.fail.Exception):
        check_sum(np.nansum)
    broken = copy.deepcopy(sllm)
    with torch.no_grad():
        broken.autoencoder.decoder.norm.bias[0] = math.nan
    assert broken(**pad([SENTENCES])).losses["token"].isnan()


class CutOffStopLoss(SLLM):
    """A stop loss below 0.01 leaves the graph, as published."""

    def _stop(self, *args):
        logits, nats = super()._stop(*args)
        return logits, nats if nats.sum() > 0.01 else nats.detach()


def test_fault_11_a_small_stop_loss_still_teaches(sllm):
    sure = copy.deepcopy(sllm)
    with torch.no_grad():
        sure.stop_head.weight.zero_()
        sure.stop_head.bias.fill_(-12.0)

    def check(model):
        stop = model(**pad([SENTENCES]), continues=torch.tensor([True])).losses["stop"]
        assert 0 < stop < 0.01
        assert stop.requires_grad
        (gradient,) = torch.autograd.grad(stop, model.stop_head.bias)
        assert gradient > 0

    check(sure)
    with pytest.raises(AssertionError):
        check(as_kind(sure, CutOffStopLoss))
