"""Smaller token-level models made of pretrained ones by leaving out blocks in the middle."""

import re

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmbase.modeling.trunk import FAMILIES, settle, with_layers


def layers_to_keep(spec: str, count: int) -> tuple[int, int]:
    """How many of the first and of the last layers of `count` `FIRST+LAST` keeps.

    Raises:
        ValueError: it says something else, nothing is kept, or more layers than there are.
    """
    found = re.fullmatch(r"(\d{1,4})\+(\d{1,4})", spec.strip())
    kept = (int(found[1]), int(found[2])) if found else (0, 0)
    if not any(kept):
        raise ValueError(
            f"keep_layers={spec!r}: write FIRST+LAST, how many of the first and of the last layers are kept, as in 8+6."
        )
    if sum(kept) > count:
        raise ValueError(
            f"keep_layers={spec}: {kept[0]} + {kept[1]} layers are more than the {count} that this model has; keep "
            "fewer, or leave the key out to keep all."
        )
    return kept


def keep_layers(lm: PreTrainedModel, spec: str) -> PreTrainedModel:
    """A model of the first and last layers of another one, numbered anew; its weights are copies.

    Raises:
        ValueError: more layers than there are.
    """
    count = lm.config.num_hidden_layers
    first, last = layers_to_keep(spec, count)
    places = {old: new for new, old in enumerate([*range(first), *range(count - last, count)])}
    path = FAMILIES[lm.config.model_type].blocks
    block = re.compile(rf"(.*\b{re.escape(path)}\.)(\d+)(\..*)")
    weights = {}
    for name, weight in lm.state_dict().items():
        if not (parts := block.fullmatch(name)):
            weights[name] = weight
        elif int(parts[2]) in places:
            weights[f"{parts[1]}{places[int(parts[2])]}{parts[3]}"] = weight
    with torch.random.fork_rng(devices=[]):  # fresh weights, which do not stay
        smaller: PreTrainedModel = AutoModelForCausalLM.from_config(
            with_layers(lm.config, first + last), dtype=lm.dtype, trust_remote_code=False
        )
    smaller.load_state_dict(weights)
    smaller.generation_config = lm.generation_config
    settle(smaller)
    return smaller
