"""Loading token-level language models: from a hub, a folder, a run or a GGUF file, or with random weights."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from lmbase.modeling.folders import check_whole, gguf_options, model_folder, quiet_loading
from lmbase.modeling.packed import check_unpacked
from lmbase.modeling.trunk import FAMILIES, check_trunk, random_config, settle


def load_lm(
    spec: str,
    *,
    vocab_size: int = 50272,
    max_positions: int = 2048,
    seed: int = 0,
) -> PreTrainedModel:
    """A token-level language model, without dropout, in fp32.

    Args:
        spec: a hub id, a folder or a run (safetensors only), a GGUF file, or `random:SIZE` for fresh weights.
        vocab_size, max_positions: of a random model; a loaded one keeps its own.

    Raises:
        ValueError: no such model, one of a family that is not known, or a folder that lacks a weight.
    """
    if spec.startswith("random:"):
        config = random_config(spec, vocab_size=vocab_size, max_positions=max_positions)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        settle(lm)
        return lm
    source = model_folder(spec)
    options = gguf_options(source)
    config = check_trunk(read_config(spec), f"lm={spec!r}")
    no_dropout: dict[str, Any] = dict.fromkeys(FAMILIES[config.model_type].dropouts, 0.0)
    with quiet_loading(source):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **(options or dict(pretrained_model_name_or_path=source, use_safetensors=True)),
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, in one sentence
            **no_dropout,
        )
    lm, found = loaded
    blocks = f"{FAMILIES[config.model_type].blocks}."  # a head for another task may be left over, a block may not
    found["unexpected_keys"] = [name for name in found["unexpected_keys"] if blocks in name]
    check_whole(lm, found, f"lm={spec}")
    settle(lm)
    return lm


def check_lm(lm: Any) -> None:
    """Raise ValueError unless this is a model of Transformers whose weights can be copied: not wrapped or rounded or
    elsewhere, and without adapters."""
    if not hasattr(type(lm), "base_model_prefix"):  # what wraps one passes its attributes on, and not its class's
        raise ValueError(
            f"A language model of Transformers is needed, and this is a {type(lm).__name__}: load one with "
            "AutoModelForCausalLM.from_pretrained; of one with adapters give merge_and_unload(), of a compiled one "
            "what was compiled."
        )
    check_unpacked(lm)
    outlines = torch.get_default_device().type == "meta"  # are wanted, shapes without weights
    for name, weight in lm.named_parameters():
        if ".base_layer." in name:
            raise ValueError(f"{type(lm).__name__} has adapters ({name}): merge them first, or load it without them.")
        if (weight.is_meta and not outlines) or not weight.is_floating_point():
            raise ValueError(
                f"{type(lm).__name__}: {name} is {weight.dtype} on {weight.device}, so it cannot be copied: load the "
                "model onto one device, not quantised."
            )


def read_config(spec: str) -> PreTrainedConfig:
    """The configuration of a model that `load_lm` would load.

    Raises:
        ValueError: there is no model, or its configuration cannot be read.
    """
    if spec.startswith("random:"):
        return random_config(spec, vocab_size=50272, max_positions=2048)
    source = model_folder(spec)
    with quiet_loading(source):
        options = gguf_options(source) or dict(pretrained_model_name_or_path=source)
        options.pop("quantization_config", None)
        return AutoConfig.from_pretrained(**options, trust_remote_code=False)


def own_tokenizer(spec: str | None) -> str | None:
    """Where the tokenizer of a model is found: beside its weights; None for random weights, and for none.

    Raises:
        ValueError: no such model, or one of a family that is not known: told before any text is prepared for it.
    """
    if spec is None:
        return None
    check_trunk(read_config(spec), f"lm={spec!r}")
    return None if spec.startswith("random:") else model_folder(spec)
