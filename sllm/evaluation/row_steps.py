"""Plain token-level models written with the step of one text that multi-token models compile on a CPU."""

from weakref import WeakKeyDictionary

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lmbase.modeling.int8 import Int8Linear
from lmbase.modeling.one_row import fingerprints
from multitoken import MultiTokenLM
from sllm.evaluation.loaded import Writing

_known: WeakKeyDictionary[PreTrainedModel, tuple[list, MultiTokenLM]] = WeakKeyDictionary()


def with_row_steps(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, how: Writing) -> MultiTokenLM | None:
    """The same model with one head, a copy; None where a call wants no compiled steps, or what these do not do: drafts,
    weights in eight bits, another device."""
    own = how.arguments
    copies = own.get("prompt_lookup_num_tokens") or model.generation_config.prompt_lookup_num_tokens
    in_eight_bits = any(isinstance(part, Int8Linear) for part in model.modules())
    if own.get("cache_implementation") != "static" or own.get("disable_compile"):
        return None
    if model.device.type != "cpu" or how.assistant or copies or in_eight_bits:
        return None
    now = fingerprints(model)
    if model not in _known or _known[model][0] != now:
        heads = MultiTokenLM.from_lm(model, 1)
        heads.generation_config, heads.tokenizer = model.generation_config, tokenizer
        _known[model] = now, heads
    return _known[model][1]
