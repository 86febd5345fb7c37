"""Plain token-level models written with the step of one text that multi-token models compile on a CPU."""

from typing import Any
from weakref import WeakKeyDictionary

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from lmbase.modeling.one_row import fingerprints
from lmbase.modeling.packed import PackedLinear, pack_linear_layers
from multitoken import MultiTokenLM
from sllm.evaluation.loaded import LoadedModel, Writing, Written

_known: WeakKeyDictionary[PreTrainedModel, tuple[list, MultiTokenLM]] = WeakKeyDictionary()


def with_row_steps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: GenerationConfig
) -> MultiTokenLM | None:
    """The same model with one head, a copy; None where a call wants no compiled steps, on another device, or with
    weights in fewer bits that no copy was made of before."""
    if config.cache_implementation != "static" or config.disable_compile or model.device.type != "cpu":
        return None
    now = fingerprints(model)
    if model not in _known or _known[model][0] != now:
        if any(isinstance(part, PackedLinear) for part in model.modules()):
            return None
        _known[model] = now, _with_head(model, tokenizer)
    return _known[model][1]


def pack_with_row_steps(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, weights: str) -> None:
    """Hold a model's weights in fewer bits, and those of the copy that compiled steps are of, which can only be made of
    whole ones."""
    heads = _with_head(model, tokenizer)
    heads.write_in(weights)
    pack_linear_layers(model, weights)
    _known[model] = fingerprints(model), heads


def _with_head(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> MultiTokenLM:
    heads = MultiTokenLM.from_lm(model, 1)
    heads.generation_config, heads.tokenizer = model.generation_config, tokenizer
    return heads


def write_by_rows(
    loaded: LoadedModel, prompts: list[str], how: Writing, config: GenerationConfig, streamer: Any
) -> list[Written] | None:
    """One text of a plain model, so written; None where `with_row_steps` is, or of several texts."""
    heads = with_row_steps(loaded.model, loaded.tokenizer, config) if len(prompts) == 1 else None
    if heads is None:
        return None
    output = heads.generate(text=prompts, num_draft=1, seed=how.seed, streamer=streamer, **how.arguments)
    (text,) = output.texts or [""]
    return [Written(text, output.num_new_tokens[0], output.finish_reason[0])]
