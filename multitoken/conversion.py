"""From a token-level language model to heads on it, and back."""

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmbase.modeling.devices import moved
from lmbase.modeling.packed import check_unpacked, pack_linear_layers, packed_table
from lmbase.modeling.pretrained import check_lm
from lmbase.modeling.settings import take_ids
from lmbase.modeling.trunk import FAMILIES, check_trunk, input_table, output_table, trunk_of, with_layers
from multitoken.configuration_multitoken import MultiTokenLMConfig
from multitoken.modeling_multitoken import MultiTokenModel

ModelT = TypeVar("ModelT", bound=MultiTokenModel)


def from_lm(cls: type[ModelT], lm: PreTrainedModel, num_future_tokens: int, head_kind: str, options: dict) -> ModelT:
    """`MultiTokenLM.from_lm`."""
    check_lm(lm)
    check_trunk(lm.config, type(lm).__name__)  # all of it: the last block, too
    output = output_table(lm)
    config = MultiTokenLMConfig.matching(lm.config, 1, head_kind, **options)
    config.num_future_tokens = num_future_tokens
    tied = output is input_table(lm)
    config.own_unembeddings = config.own_unembeddings or not tied
    model = cls(config)
    model.kind.check(lm.config, num_future_tokens)
    source = trunk_of(lm)
    family = FAMILIES[lm.config.model_type]
    weights = source.state_dict()
    layers = f"{family.blocks}."
    last = f"{layers}{config.trunk.num_hidden_layers}." if model.kind.is_block else None
    block = {name.removeprefix(last): w for name, w in weights.items() if last and name.startswith(last)}
    tails = {"final_layer_norm": family.norm, "project_out": family.projection}
    own = {
        f"{ours}.{name.removeprefix(f'{theirs}.')}": w
        for ours, theirs in tails.items()
        for name, w in weights.items()
        if theirs and name.startswith(f"{theirs}.")
    }
    elsewhere = tuple(f"{path}." for path in tails.values() if path) + ((last,) if last else ())
    model.trunk.load_state_dict({name: w for name, w in weights.items() if not name.startswith(elsewhere)})
    model.load_state_dict(own, strict=False)
    for number, head in enumerate(model.heads, start=1):
        model.kind.copy_block(head, block, number)
    if model.unembeddings is not None:
        with torch.no_grad():
            for i in range(1, num_future_tokens + 1):
                model.unembedding(i).copy_(output)
    take_ids(model.generation_config, config, lm)
    return moved(model, dtype=lm.dtype).eval()


def to_lm(model: MultiTokenModel) -> PreTrainedModel:
    """Trunk and head 1 as a plain language model of Transformers, copied."""
    check_unpacked(model)
    if not model.kind.is_block or model.num_read_heads > 1:
        raise ValueError(
            f"Head 1 of kind {model.config.head_kind!r} is no block on the trunk: no plain model has that shape."
        )
    config = with_layers(model.config.trunk, model.config.trunk.num_hidden_layers + 1)
    config.tie_word_embeddings = model.unembeddings is None
    # of this dtype from the start: a cast would round what positions are rotated by
    lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=model.dtype)
    trunk = trunk_of(lm)
    own = model.state_dict()
    family = FAMILIES[config.model_type]
    last = f"{family.blocks}.{config.num_hidden_layers - 1}."
    weights = {name.removeprefix("trunk."): w for name, w in own.items() if name.startswith("trunk.")}
    weights |= {last + name.removeprefix("heads.0."): w for name, w in own.items() if name.startswith("heads.0.")}
    for ours, theirs in (("final_layer_norm.", family.norm), ("project_out.", family.projection)):
        weights |= {f"{theirs}.{n.removeprefix(ours)}": w for n, w in own.items() if n.startswith(ours)}
    trunk.load_state_dict(weights)
    with torch.no_grad():
        output_table(lm).copy_(model.unembedding(1))
    lm.generation_config = copy.deepcopy(model.generation_config)
    return lm.eval()


def with_heads(model: ModelT, num_future_tokens: int) -> ModelT:
    """A copy with the first heads only."""
    check_unpacked(model)
    n = model.config.num_future_tokens
    if not 1 <= num_future_tokens <= n:
        raise ValueError(f"num_future_tokens={num_future_tokens}: this model has heads 1 to {n}.")
    if model.kind.reads_all and num_future_tokens < n:
        raise ValueError("Head 1 of kind 'anticausal' reads through all others: none can be taken off.")
    config = copy.deepcopy(model.config)
    config.num_future_tokens, config.draft_tree = num_future_tokens, None
    config.head_weights = config.head_weights and config.head_weights[:num_future_tokens]
    if num_future_tokens == 1:
        config.draft_transitions, config.train_transitions_only, config.draft_targets = False, False, "text"
    fewer = type(model)(config)
    kept = {name: weight for name, weight in model.state_dict().items() if name in fewer.state_dict()}
    fewer.load_state_dict(kept)
    fewer.generation_config = copy.deepcopy(model.generation_config)
    return cast(ModelT, moved(fewer, dtype=model.dtype).train(model.training))


def vocabulary_matrices(model: MultiTokenModel) -> list[Tensor]:
    """(V, D) of each head, or the one that they share."""
    return [model.unembedding(i + 1) for i in range(len(model.unembeddings or [None]))]


def write_in(model: MultiTokenModel, weights: str) -> None:
    """`MultiTokenLM.write_in`."""
    tables = [packed_table(table, weights) for table in vocabulary_matrices(model)]
    pack_linear_layers(model, weights, but=model.unembeddings)  # guesses look into them
    model.packed_tables = nn.ModuleList(tables)
