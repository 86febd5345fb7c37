"""How many weights are read to write a token: what a step costs where reading them takes the time."""

from torch import nn
from transformers import PreTrainedModel

from lmbase.modeling.trunk import blocks, input_table, trunk_of
from sllm.evaluation.loaded import LoadedModel
from sllm.sllm import SLLM


def weights_read(loaded: LoadedModel, tokens_per_sentence: float) -> float:
    """Weights that a token of text reads, written one after another: layers and vocabulary table; of an SLLM as
    `read_by_sentences`, of a multi-token model with its first head only."""
    model = loaded.model
    if loaded.by_sentence:
        return read_by_sentences(model, tokens_per_sentence)
    if not loaded.num_heads:
        return read_by_tokens(model)
    return input_table(model).numel() + _size(blocks(model.trunk), model.heads[0])


def read_by_tokens(lm: PreTrainedModel) -> float:
    """Of a token-level model."""
    return input_table(lm).numel() + _size(blocks(trunk_of(lm)))  # a table as large as the one that makes logits


def read_by_sentences(model: SLLM, tokens_per_sentence: float) -> float:
    """Of an SLLM: the decoder and the vocabulary table at every token and each end, encoder and trunk once a sentence;
    by own layers the lower ones at every token, too. Ends that are told take no step."""
    own, config, sentences = model.own, model.config, 1 / tokens_per_sentence
    steps = 1 + sentences * (not config.told_ends)
    if own is None:
        between = (model.sentence_in, model.sentence_out, model.stop_head)
        once = _size(blocks(model.trunk), model.autoencoder.encoder, *between)
        return steps * (_size(model.autoencoder.decoder) + model.output_table.numel()) + sentences * once
    layer = _size(blocks(model.trunk)[0])
    middle = len(own.middle(model.trunk)) * layer + own.joint.weight.numel()
    middle += config.use_trunk * own.mean.weight.numel()
    lower = config.lower_layers * layer + own.carry.weight.numel()
    upper = config.upper_layers * layer + model.output_table.numel()
    return lower + steps * upper + sentences * middle


def _size(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())
