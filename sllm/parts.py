"""The parts of an SLLM: which weights belong to which, and what each takes to run."""

from typing import Any

from lmbase.modeling.flops import attention_flops, linear_flops
from lmbase.modeling.trunk import attention_width, blocks
from sllm.configuration_sllm import SLLMConfig


def part_of(name: str, config: SLLMConfig) -> str:
    """Which part of an SLLM a weight belongs to, by its name."""
    if "embed_tokens" in name or name.startswith("lm_head") or name.endswith("wte.weight"):
        return "table"
    if name.startswith("autoencoder."):
        return "joints" if "memory_" in name else "outer"
    if not name.startswith("trunk."):
        return "joints"
    number = next((int(word) for word in name.split(".") if word.isdigit()), None)
    last = config.trunk.num_hidden_layers - config.upper_layers
    inside = number is not None and config.lower_layers <= number < last
    return "trunk" if inside or not config.own_layers else "outer"


def unused_parts(model: Any) -> list[Any]:
    """Modules that never run: of a control without its trunk the layers between."""
    if model.own is None or model.config.use_trunk:
        return []
    return [model.own.between(model.trunk), model.own.mean]


def freeze_parts(model: Any) -> None:
    """Parts that the configuration leaves as they are need no gradients."""
    if model.config.train_draft_heads_only:
        model.requires_grad_(False)
        model.draft_heads.requires_grad_(True)
        model.draft_transitions.requires_grad_(True)
        return
    kept = model.config.freeze_trunk_layers
    if kept is not None:
        layers = blocks(model.trunk)
        model.trunk.requires_grad_(False)
        for layer in [*layers[:kept], *layers[len(layers) - kept :]]:
            layer.requires_grad_(True)
    if model.config.freeze_autoencoder:
        model.autoencoder.requires_grad_(False)
        for name, weight in model.autoencoder.named_parameters():
            if "memory_" in name:  # the memory is a joint: it came with the graft
                weight.requires_grad_(True)
    for unused in unused_parts(model):  # several processes would wait for it
        unused.requires_grad_(False)


def flops_by_part(model: Any, num_tokens: int, num_sentences: int) -> dict[str, float]:
    """FLOPs of an SLLM's forward pass over so many tokens and sentences, by formula; `drafts` is what drafting heads
    take."""
    if model.own is not None:
        return _of_own_layers(model, num_tokens, num_sentences)
    config = model.config.trunk
    attention = attention_flops(attention_width(config), config.num_hidden_layers, model.config.max_sentences / 2)
    draws = model.config.vector_draws if model.draws_vectors else 1
    joints = linear_flops(model.sentence_in) + draws * linear_flops(model.sentence_out)
    trunk = linear_flops(model.trunk) + joints + attention
    parts = {"trunk": num_sentences * trunk, **model.autoencoder.flops_by_part(num_tokens, num_sentences)}
    if model.config.told_ends:
        parts["vocabulary"] = num_tokens * 2.0 * model.output_table.numel()
    if model.draws_vectors and model.config.freeze_autoencoder:  # its decoder is not asked in training
        parts |= {"decoder": 0.0, "vocabulary": 0.0}
    return parts | {"drafts": (num_tokens + num_sentences) * _of_heads(model)}


def _of_own_layers(model: Any, num_tokens: int, num_sentences: int) -> dict[str, float]:
    """An end is predicted by the upper blocks once more; by a flag or told it costs no product with the vocabulary."""
    own, config, written = model.own, model.config, num_tokens + num_sentences
    predicted = num_tokens if config.end_flag or config.told_ends else written
    width, middle = attention_width(config.trunk), own.middle(model.trunk)
    lower, upper = (sum(map(linear_flops, stage(model.trunk))) for stage in (own.lower, own.upper))
    lower += attention_flops(width, config.lower_layers, config.lower_window) + linear_flops(own.carry)
    upper += attention_flops(width, config.upper_layers, config.upper_window)
    trunk = linear_flops(middle) + attention_flops(width, len(middle), config.max_sentences / 2)
    return {
        "trunk": num_sentences * (trunk + config.use_trunk * linear_flops(own.mean) + linear_flops(own.joint)),
        "encoder": num_tokens * lower,
        "decoder": written * upper,
        "vocabulary": predicted * 2.0 * model.output_table.numel(),
        "drafts": written * _of_heads(model),
    }


def _of_heads(model: Any) -> float:
    further = [*model.draft_heads, *model.draft_transitions]
    return sum(map(linear_flops, further)) + len(further) * 2.0 * model.output_table.numel()
