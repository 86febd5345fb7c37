"""What configurations of models check in common: the names and the types of their fields."""

import difflib
import inspect
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedConfig

from lmbase.config.options import type_name

# What Transformers writes into configurations and hands to their constructors, of this version and of earlier ones.
TRANSFORMERS_KEYS = {
    *inspect.signature(PreTrainedConfig.__init__).parameters,
    *PreTrainedConfig().to_dict(),
    *("_name_or_path", "name_or_path", "_commit_hash", "auto_map", "model_type", "torch_dtype", "torchscript"),
    *("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size", "tie_word_embeddings", "is_decoder", "use_cache"),
    *("num_labels", "output_attentions"),
    "training_context",  # which trainings of token-level models leave there
}


def check_keys(config: PreTrainedConfig, kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError for keys that neither a configuration's constructor nor Transformers knows."""
    own = [name for name in inspect.signature(type(config).__init__).parameters if name not in ("self", "kwargs")]
    unknown = [name for name in kwargs if name not in TRANSFORMERS_KEYS]
    told = []
    for name in unknown:
        near = difflib.get_close_matches(name, own, n=2, cutoff=0.5)
        told.append(f"{name!r}" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
    if told:
        raise ValueError(
            f"{type(config).__name__} has no field {', '.join(told)}. It has: {', '.join(own)}. A folder that has more "
            "was written by a newer version, or is damaged."
        )


def type_faults(config: PreTrainedConfig) -> list[str]:
    """A line for each field whose value is of another type than the constructor says; nested configurations apart."""
    faults = []
    for name, tp in typing.get_type_hints(type(config).__init__).items():
        if name in type(config).sub_configs or not hasattr(config, name):
            continue
        try:
            TypeAdapter(tp).validate_python(getattr(config, name), strict=True)
        except ValidationError:
            faults.append(f"{name}={getattr(config, name)!r}: must be {type_name(tp)}")
    return faults


def unread_faults(config: PreTrainedConfig) -> list[str]:
    """A line for each output that a configuration asks for, as of Transformers' models, and that models here lack."""
    asked = [name for name in ("output_hidden_states", "output_attentions") if getattr(config, name, False)]
    return [f"{name}=True: forward() has none to give; leave it out" for name in asked]


def untied_faults(config: PreTrainedConfig) -> list[str]:
    """A line where a configuration asks for a vocabulary table of its own after a part that shares the one before."""
    if config.tie_word_embeddings:
        return []
    return ["tie_word_embeddings=False: one table is read by encoder, decoder and vocabulary alike; leave it out"]


def refuse(kind: str, faults: list[str]) -> None:
    """Raise one ValueError with all faults of a configuration, if there are any."""
    if faults:
        raise ValueError(f"This {kind} cannot be built:\n  " + "\n  ".join(faults))
