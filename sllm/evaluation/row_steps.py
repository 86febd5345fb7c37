"""Plain token-level models written with the step of one text that multi-token models compile on a CPU."""

from weakref import WeakKeyDictionary

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from lmbase.modeling.int8 import Int8Linear
from lmbase.modeling.one_row import fingerprints
from multitoken import MultiTokenLM

_known: WeakKeyDictionary[PreTrainedModel, tuple[list, MultiTokenLM]] = WeakKeyDictionary()


def with_row_steps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: GenerationConfig
) -> MultiTokenLM | None:
    """The same model with one head, a copy; None where a call wants no compiled steps, or where these do not do:
    weights in eight bits, another device."""
    if config.cache_implementation != "static" or config.disable_compile or model.device.type != "cpu":
        return None
    if any(isinstance(part, Int8Linear) for part in model.modules()):
        return None
    now = fingerprints(model)
    if model not in _known or _known[model][0] != now:
        heads = MultiTokenLM.from_lm(model, 1)
        heads.generation_config, heads.tokenizer = model.generation_config, tokenizer
        _known[model] = now, heads
    return _known[model][1]
