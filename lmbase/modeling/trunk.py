"""Trunks: decoder-only models of Transformers, used through their public door.

A trunk reads vectors (`inputs_embeds`) at given positions, with a cache if there is one, and returns states after its
last norm. What families call their parts differently stands in one table, `FAMILIES`: a new family is one line there
and passes tests/lmbase/modeling/test_trunk.py.

B texts, L positions, D width of the vectors that a trunk reads, H its own width.
"""

import copy
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from lmbase.modeling.attention import use_fast_attention
from lmbase.modeling.cache import CACHE_KEY
from lmbase.modeling.packed import PackedLinear
from lmbase.modeling.rotation import keep_rotation_exact

logger = logging.get_logger(f"transformers.{__name__}")


@dataclass(frozen=True)
class Family:
    """Where a family of models keeps its parts.

    Args:
        blocks: path of the list of blocks below the trunk.
        norm: path of the norm after the last block; the module may be None.
        projection: path of what narrows states to the width of the vocabulary table, if there is such a thing.
        widening: path of what widens embeddings to the width of states.
        positions: path of the table of learned positions, if they are added to the embeddings.
        first_position: its row of position 0.
        feed_forward: name of the feed-forward layers' width in the configuration.
        dropouts: names of all dropout probabilities there.
        random: what else a random model's configuration sets, made of its `size`: a dict of Transformers' common
            names (`hidden_size`, `num_attention_heads` ...).
        note: what stands behind its name in messages.
    """

    blocks: str = "layers"
    norm: str = "norm"
    projection: str | None = None
    widening: str | None = None
    positions: str | None = None
    first_position: int = 0
    feed_forward: str = "intermediate_size"
    dropouts: tuple[str, ...] = ("attention_dropout",)
    random: Callable[[dict], dict] = lambda size: {}
    note: str = ""


def _grouped(size: dict) -> dict:
    """Half as many key-value heads as query heads, where that goes."""
    heads = size["num_attention_heads"]
    return {"num_key_value_heads": heads if heads % 2 else heads // 2}


FAMILIES: dict[str, Family] = {
    "opt": Family(
        blocks="decoder.layers",
        norm="decoder.final_layer_norm",
        projection="decoder.project_out",
        widening="decoder.project_in",
        positions="decoder.embed_positions",
        first_position=2,
        feed_forward="ffn_dim",
        dropouts=("dropout", "attention_dropout", "layerdrop"),
        random=lambda size: {"word_embed_proj_dim": size["hidden_size"]},
    ),
    "gpt2": Family(
        blocks="h",
        norm="ln_f",
        positions="wpe",
        feed_forward="n_inner",
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
    "llama": Family(random=_grouped, note="SmolLM2, too"),
    "qwen2": Family(random=_grouped),
    "qwen3": Family(
        random=lambda size: _grouped(size) | {"head_dim": size["hidden_size"] // size["num_attention_heads"]}
    ),
}

# Random sizes: two small ones for CPUs, a deep and narrow one for models of bytes, and those of the published OPTs
# (arXiv 2205.01068). `random:SIZE` is an OPT, `random:FAMILY-SIZE` one of another family with one of the first
# three; WIDTHxLAYERS is a size, too.
COMMON_SIZES: dict[str, dict] = {
    "tiny": dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, feed_forward=512),
    "small": dict(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, feed_forward=1024),
    "bytes": dict(hidden_size=128, num_hidden_layers=32, num_attention_heads=4, feed_forward=512),
}
OPT_SIZES: dict[str, dict] = {
    "opt-125m": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, feed_forward=3072),
    "opt-350m": dict(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        feed_forward=4096,
        word_embed_proj_dim=512,
        do_layer_norm_before=False,
    ),
    "opt-1.3b": dict(hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, feed_forward=8192),
}


# -- configurations ----------------------------------------------------------------------------------------------------


def check_trunk(config: PreTrainedConfig, what: str) -> PreTrainedConfig:
    """The configuration itself, if models of it can be trunks.

    Raises:
        ValueError: a family that is not known, an encoder, attention within sliding windows, positions that mean
            something else in a longer text.
    """
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{what} is an encoder-decoder model ({kind}); a decoder-only one is needed: {_promised()}.")
    if hasattr(config, "trunk"):  # made of one here
        raise ValueError(
            f"{what} is no plain language model but a {kind!r}, which has one as its trunk. sllm finetune-mtp and "
            "finetune-sllm go on with such a model, given as --model; give its trunk's own run or hub id here."
        )
    if kind not in FAMILIES:
        raise ValueError(
            f"{what} is of the family {kind!r}, which is not known here. Promised and tested are {_promised()}; "
            "another decoder-only family takes a line in lmbase/modeling/trunk.py and its tests."
        )
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ValueError(f"{what} attends within sliding windows in some layers, which caches here do not know.")
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "longrope":
        raise ValueError(
            f"{what} rotates all positions otherwise once a text is long (longrope): what was read and scored before "
            "would change, so it has no likelihood and no cache."
        )
    if getattr(config, "add_cross_attention", False):
        raise ValueError(f"{what} has cross-attention: it is the decoder of an encoder-decoder model.")
    return config


def check_inner_trunk(config: PreTrainedConfig) -> None:
    """As `check_trunk`, of a trunk inside a model of this toolkit, which reads its whole context: a window that it kept
    as a plain model is dropped, and that is told."""
    check_trunk(config, "the trunk")
    if vars(config).pop("keep_window", None) is not None:
        logger.warning(
            "The model that this trunk comes from keeps a window of tokens; inside this one it reads its whole context."
        )


def _promised() -> str:
    names = [f"{name} ({family.note})" if family.note else name for name, family in FAMILIES.items()]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def random_config(spec: str, *, vocab_size: int, max_positions: int) -> PreTrainedConfig:
    """The configuration that `random:SIZE` or `random:FAMILY-SIZE` names.

    Raises:
        ValueError: no such size or family.
    """
    name = spec.removeprefix("random:")
    family, _, small = name.rpartition("-")
    if name in OPT_SIZES or not family:
        family, size = "opt", (COMMON_SIZES | OPT_SIZES).get(name) or _own_size(name)
    else:
        size = COMMON_SIZES.get(small) or _own_size(small)
    if size is None or family not in FAMILIES:
        raise ValueError(
            f"lm={spec!r}: random weights come in the sizes {', '.join(COMMON_SIZES | OPT_SIZES)} or as WIDTHxLAYERS "
            f"(random:320x8), and of the families {', '.join(FAMILIES)} as in random:llama-tiny."
        )
    return new_config(family, vocab_size=vocab_size, max_position_embeddings=max_positions, **size)


def _own_size(name: str) -> dict | None:
    """`300x6` is a width of 300 and 6 layers: as many heads as bring them nearest to 64 wide, feed-forward layers four
    times as wide. None if that is not what the name says.

    Raises:
        ValueError: a width that no number of heads of even width divides.
    """
    if not (parts := re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,2})", name)):
        return None
    width, layers = map(int, parts.groups())
    if width % 2:  # rotary positions turn pairs of values
        raise ValueError(f"lm='random:{name}': a width of {width} has no heads of even width; an even one has.")
    heads = min((n for n in range(1, width // 2 + 1) if width % (2 * n) == 0), key=lambda n: abs(width / n - 64))
    return dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, feed_forward=4 * width)


def new_config(family: str, *, feed_forward: int, **size) -> PreTrainedConfig:
    """A configuration of a family: `size` in Transformers' common names, and the width of the feed-forward layers."""
    entry = FAMILIES[family]
    fields = entry.random(size) | dict.fromkeys(entry.dropouts, 0.0) | {entry.feed_forward: feed_forward} | size
    fields = {"tie_word_embeddings": True, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2} | fields
    return AutoConfig.for_model(family, **fields)


def as_config(value: PreTrainedConfig | dict | None) -> PreTrainedConfig:
    """A trunk's configuration as a nested one is given or stored: copied, or made of its fields, whose `model_type`
    says which family; OPT's by default, as in the folders of earlier versions."""
    if isinstance(value, PreTrainedConfig):
        return copy.deepcopy(value)
    fields = dict(value or {})
    return AutoConfig.for_model(fields.pop("model_type", "opt"), **fields)


# -- shapes and ids ----------------------------------------------------------------------------------------------------


def vector_width(config: PreTrainedConfig) -> int:
    """D, the width of the vectors that a trunk reads and of its vocabulary table."""
    return getattr(config, "word_embed_proj_dim", None) or config.hidden_size


def vector_heads(config: PreTrainedConfig) -> int:
    """How many attention heads as wide as the trunk's own fit into such a vector; fewer, where they do not fill it."""
    width = vector_width(config)
    heads = max(1, config.num_attention_heads * width // config.hidden_size)
    return next(n for n in range(heads, 0, -1) if width % n == 0)


def key_value_shape(config: PreTrainedConfig) -> tuple[int, int]:
    """Key-value heads of a layer, and their width."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def position_bytes(config: PreTrainedConfig, dtype: torch.dtype, num_layers: int | None = None) -> int:
    """Bytes of the keys and values of one position; default: in all layers."""
    heads, width = key_value_shape(config)
    return 2 * (num_layers or config.num_hidden_layers) * heads * width * dtype.itemsize


def attention_width(config: PreTrainedConfig) -> int:
    """Width of all query heads together, which in Qwen3 is not that of the states."""
    return config.num_attention_heads * key_value_shape(config)[1]


class SpecialIds(NamedTuple):
    """Ids that frame a text: padding, what is read before its first token, what ends it."""

    pad: int
    opening: int
    end: int


def special_ids(config: PreTrainedConfig) -> SpecialIds:
    """Those of a model: an opening id that is missing is the end's, and so is padding, which is always masked.

    Raises:
        ValueError: no end id.
    """
    end = config.eos_token_id
    if isinstance(end, list):  # several may end a turn; the first ends a text
        end = end[0] if end else None
    if end is None:
        raise ValueError(
            f"The configuration of this {config.model_type} has no eos_token_id, so no text can end: set it and save "
            "the model again."
        )
    opening, pad = config.bos_token_id, config.pad_token_id
    return SpecialIds(int(end if pad is None else pad), int(end if opening is None else opening), int(end))


def with_layers(config: PreTrainedConfig, num_layers: int) -> PreTrainedConfig:
    """A copy of a configuration with another number of blocks."""
    copied = copy.deepcopy(config)
    kinds = getattr(copied, "layer_types", None)
    if kinds is not None:  # one entry a layer, which `check_trunk` wants to be this; none of a trunk without blocks
        copied.layer_types = (kinds + ["full_attention"] * num_layers)[:num_layers]
    copied.num_hidden_layers = num_layers
    return copied


# -- parts -------------------------------------------------------------------------------------------------------------


def new_trunk(config: PreTrainedConfig) -> PreTrainedModel:
    """A trunk with fresh weights."""
    trunk = AutoModel.from_config(config, trust_remote_code=False)
    settle(trunk)
    return trunk


def trunk_of(lm: PreTrainedModel) -> PreTrainedModel:
    """The trunk below a language model's vocabulary head; a trunk itself is returned as it is."""
    return getattr(lm, type(lm).base_model_prefix, lm)


def input_table(model: PreTrainedModel) -> Tensor:
    """The vocabulary table (V, D) that a model reads tokens with."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight


def own_weight(table: nn.Module) -> Tensor:
    """The matrix (V, D) of a vocabulary's embedding or output layer, to multiply states with.

    Raises:
        ValueError: an adapter hangs on it that is not merged: it would count where tokens are read, or nowhere.
    """
    if hasattr(table, "base_layer") and not table.merged and not table.disable_adapters:  # peft's word
        raise ValueError(
            "An adapter hangs on a matrix of the vocabulary (target_modules), which is multiplied with as it is, so "
            "that the merged model would be another one: name the matrix in modules_to_save, which trains it itself, "
            "or in exclude_modules."
        )
    return cast(nn.Linear, table).weight


def output_table(lm: PreTrainedModel) -> Tensor:
    """The matrix (V, D) that makes logits of a language model's states.

    Raises:
        ValueError: a trunk without such a matrix, or more than it.
    """
    head = lm.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(lm).__name__} has no vocabulary head: load it as a language model (...ForCausalLM).")
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"{type(lm).__name__} adds a bias to its logits, which models here do not know.")
    if isinstance(head, PackedLinear):  # what a model says that writes so, it can be asked, too
        return head.unpacked().to(lm.dtype)
    return cast(nn.Linear, head).weight


def blocks(trunk: PreTrainedModel) -> nn.ModuleList:
    """The list of its blocks."""
    return cast(nn.ModuleList, trunk.get_submodule(family_of(trunk).blocks))


def new_block(trunk: PreTrainedModel, number: int) -> nn.Module:
    """One more block like those of a trunk, with fresh weights; `number` is its place in caches."""
    (name,) = cast(list[str], type(trunk)._no_split_modules)
    config = with_layers(trunk.config, number + 1)
    block: nn.Module = getattr(sys.modules[type(trunk).__module__], name)(config, number)
    for module in block.modules():  # one configuration, so that the way to attend can be changed for all
        if getattr(module, "config", None) is config:
            setattr(module, "config", trunk.config)  # noqa: B010  # a module's attributes are weights to a type checker
    return block


def take_tail(trunk: PreTrainedModel) -> tuple[nn.Module | None, nn.Module | None]:
    """What comes after the last block, taken off the trunk: its norm and its projection, where it has them."""
    family = family_of(trunk)
    norm, projection = part_at(trunk, family.norm), part_at(trunk, family.projection)
    for path, part in ((family.norm, norm), (family.projection, projection)):
        if path is not None and part is not None:
            trunk.set_submodule(path, nn.Identity())
    return norm, projection


def drop_table(trunk: PreTrainedModel) -> None:
    """A trunk that reads vectors needs no vocabulary table."""
    trunk.set_input_embeddings(cast(nn.Module, None))


def run_trunk(trunk: PreTrainedModel, inputs_embeds: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
    """Vectors (B, L, D) -> states (B, L, D) after the last norm.

    Args:
        mask: (B, C) 1 on positions that exist, of those in the cache first; positions are counted along it.
        cache: what earlier calls left; default: none.
    """
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]  # (B,L)
    return trunk(
        inputs_embeds=inputs_embeds,
        attention_mask=mask,
        position_ids=positions,
        use_cache=cache is not None,
        **{CACHE_KEY: cache},
    ).last_hidden_state


def settle(model: PreTrainedModel) -> None:
    """What a new model of Transformers needs to serve here."""
    use_fast_attention(model)
    keep_rotation_exact(trunk_of(model))


def family_of(trunk: PreTrainedModel) -> Family:
    return FAMILIES[trunk.config.model_type]


def part_at(trunk: PreTrainedModel, path: str | None) -> nn.Module | None:
    """The part at a path of `Family`; None where the family, or this model of it, has no such part."""
    if path is None:
        return None
    parent, _, name = path.rpartition(".")
    return getattr(trunk.get_submodule(parent), name)
