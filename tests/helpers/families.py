"""Tiny models of each kind on trunks of each family, with random weights: grouped heads, rotary positions, Conv1D."""

from collections.abc import Callable
from typing import Any

import torch
from tiny import WIDTH, make_processor, make_vae, randomise
from transformers import AutoModelForCausalLM

from lmbase.modeling import trunk
from lmbase.modeling.trunk import new_config
from multitoken import MultiTokenLM
from sllm import SLLM
from sllm.evaluation.kinds import kind_of
from sllm.evaluation.loaded import LoadedModel

FAMILIES = tuple(trunk.FAMILIES)


def make_lm(family: str = "llama", seed: int = 1, **options) -> Any:
    shape = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, feed_forward=32)
    size = dict(vocab_size=260, max_position_embeddings=64) | shape | options
    lm = AutoModelForCausalLM.from_config(new_config(family, **size)).eval()
    randomise(lm, seed)
    return lm


def make_family_sllm(family: str = "llama") -> SLLM:
    model = SLLM.graft(make_vae(), make_lm(family), max_sentences=16, num_future_tokens=2).eval()
    with torch.no_grad():
        model.stop_head.bias.fill_(-1.0)
    return model


def make_family_heads(family: str = "llama", num_future_tokens: int = 2) -> MultiTokenLM:
    model = MultiTokenLM.from_lm(make_lm(family, num_hidden_layers=3), num_future_tokens).eval()
    model.tokenizer = make_processor().tokenizer
    return model


def heads_of(lm: Any) -> MultiTokenLM:
    """Heads on a language model, which draws and writes as it does."""
    heads = MultiTokenLM.from_lm(lm, 2)
    heads.tokenizer = make_processor().tokenizer
    return heads


WRITERS = {"heads": make_family_heads, "sentences": make_family_sllm}
DRAWN: dict[str, Any] = dict(do_sample=True, temperature=0.9)
MAKERS: dict[str, Callable[[str], Any]] = {"plain": make_lm, "heads": make_family_heads, "sentences": make_family_sllm}


def loaded_as(model: Any, name: str = "tested") -> LoadedModel:
    """The model as recipes have it once it is loaded."""
    return kind_of(model.config.model_type)(name, model, make_processor().tokenizer)
