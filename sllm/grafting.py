"""Joining a pretrained autoencoder and a pretrained language model."""

from collections.abc import Iterable
from typing import TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from lmbase.modeling.devices import moved
from lmbase.modeling.trunk import input_table, special_ids, trunk_of
from sentencevae import SentenceVAE
from sentencevae.layers import DecoderLayer
from sllm.configuration_sllm import SLLMConfig
from sllm.modeling_sllm import SLLMModel

ModelT = TypeVar("ModelT", bound=SLLMModel)


def graft(cls: type[ModelT], vae: SentenceVAE, lm: PreTrainedModel, options: dict) -> ModelT:
    """`SLLM.graft`."""
    autoencoder_config = type(vae.config).from_dict(vae.config.to_dict())
    trunk_config = type(lm.config).from_dict(lm.config.to_dict())
    model = cls(SLLMConfig(autoencoder=autoencoder_config, trunk=trunk_config, **options))
    missing, _ = model.autoencoder.load_state_dict(vae.state_dict(), strict=False)
    assert all("memory" in name for name in missing), missing
    for layer in cast(Iterable[DecoderLayer], model.autoencoder.decoder.layers):
        if model.config.autoencoder.memory_size:  # starts silent, as sentence_out does
            nn.init.zeros_(layer.memory_attention.out_proj.weight)
    source = trunk_of(lm)
    embeddings = source.get_input_embeddings()
    (at,) = (name for name, module in source.named_modules() if module is embeddings)
    model.trunk.load_state_dict({k: v for k, v in source.state_dict().items() if not k.startswith(f"{at}.")})
    table = input_table(lm)
    with torch.no_grad():
        model.sentence_in.weight.copy_(torch.eye(len(model.start_state)) * table.float().std())
        model.start_state.copy_(table[special_ids(lm.config).opening])
    model.generation_config.update(**{k: getattr(model.config, k) for k in ("pad_token_id", "eos_token_id")})
    return moved(model, dtype=vae.dtype).eval()
