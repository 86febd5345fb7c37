"""Joining a pretrained autoencoder and a pretrained language model."""

from collections.abc import Iterable
from typing import TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lmbase.modeling.devices import moved
from lmbase.modeling.pretrained import check_lm
from lmbase.modeling.settings import take_ids
from lmbase.modeling.trunk import input_table, output_table, special_ids, trunk_of, vector_heads, vector_width
from sentencevae import SentenceVAE, SentenceVAEConfig
from sentencevae.layers import DecoderLayer
from sllm.configuration_sllm import SLLMConfig
from sllm.modeling_sllm import SLLMModel

ModelT = TypeVar("ModelT", bound=SLLMModel)


def graft(cls: type[ModelT], vae: SentenceVAE, lm: PreTrainedModel, options: dict) -> ModelT:
    """`SLLM.graft`."""
    if getattr(getattr(vae, "config", None), "model_type", None) != SentenceVAEConfig.model_type:
        raise ValueError(f"graft(vae, lm) is given a {type(vae).__name__} where a SentenceVAE belongs.")
    check_lm(lm)
    if options.get("next_vector", "projection") == "projection":  # a drawn one wants ends predicted
        options = {"told_ends": vae.has_processor and vae.processor.tells_ends} | options
    autoencoder_config = type(vae.config).from_dict(vae.config.to_dict())
    trunk_config = type(lm.config).from_dict(lm.config.to_dict())
    model = cls(SLLMConfig(autoencoder=autoencoder_config, trunk=trunk_config, **options))
    missing, _ = model.autoencoder.load_state_dict(vae.state_dict(), strict=False)
    assert all("memory" in name for name in missing), missing
    for layer in cast(Iterable[DecoderLayer], model.autoencoder.decoder.layers):
        if layer.memory_size:  # starts silent, as sentence_out does
            nn.init.zeros_(layer.memory_attention.out_proj.weight)
    source = trunk_of(lm)
    embeddings = source.get_input_embeddings()
    (at,) = (name for name, module in source.named_modules() if module is embeddings)
    model.trunk.load_state_dict({k: v for k, v in source.state_dict().items() if not k.startswith(f"{at}.")})
    table = input_table(lm)
    with torch.no_grad():
        model.sentence_in.weight.copy_(torch.eye(len(model.start_state)) * table.float().std())
        model.start_state.copy_(table[special_ids(lm.config).opening])
    take_ids(model.generation_config, model.config, lm)
    return moved(model, dtype=vae.dtype).eval()


def own_layers_config(lm: PreTrainedConfig, max_sentence_tokens: int, options: dict) -> SLLMConfig:
    """The configuration of a graft by own layers of such a language model."""
    config, ids = type(lm).from_dict(lm.to_dict()), special_ids(lm)
    sizes = SentenceVAEConfig(
        vocab_size=config.vocab_size,
        hidden_size=vector_width(config),
        num_attention_heads=vector_heads(config),
        max_sentence_tokens=max_sentence_tokens,
        pad_token_id=ids.pad,
        bos_token_id=ids.opening,
        eos_token_id=ids.end,
    )
    room = (config.max_position_embeddings - 1) // max_sentence_tokens
    defaults = {"end_flag": True, "max_sentences": max(1, min(64, room))}
    if options.get("num_future_tokens", 1) > 1:
        defaults["draft_head_kind"] = "residual"
    return SLLMConfig(autoencoder=sizes, trunk=config, **defaults | options)


def graft_own_layers(cls: type[ModelT], lm: PreTrainedModel, max_sentence_tokens: int, options: dict) -> ModelT:
    """`SLLM.graft_own_layers`."""
    check_lm(lm)
    table = output_table(lm)  # refuses a head that is more than this
    model = cls(own_layers_config(lm.config, max_sentence_tokens, options))
    model.trunk.load_state_dict(trunk_of(lm).state_dict())
    if model.lm_head is not None:
        model.lm_head.load_state_dict({"weight": table})
    take_ids(model.generation_config, model.config, lm)
    return moved(model, dtype=lm.dtype).eval()
