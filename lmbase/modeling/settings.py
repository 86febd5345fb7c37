"""The settings of one call of `generate`: what Transformers has words for, checked and resolved in one place."""

import copy
import inspect
import math
import numbers
from typing import Any

import numpy as np
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.utils import logging

from lmbase.modeling.cache import CACHE_KEY
from lmbase.text.stop_strings import check_stop_strings

logger = logging.get_logger(f"transformers.{__name__}")  # below Transformers' own, so that its verbosity holds

DEFAULT_NEW_TOKENS = 128
DEFAULTS = GenerationConfig().to_dict()
# Settings that processors of logits stand for, in Transformers' order, with the values that change nothing.
PROCESSING = {
    "sequence_bias": (None,),
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "suppress_tokens": (None,),
}
# Sampling settings, with the values that change nothing. What is not set changes nothing: Transformers' own top_k of 50
# would make draws of models that are written with its `generate` others than those of the models here.
SAMPLING = {
    "temperature": (None, 1.0),
    "top_k": (None, 0),
    "top_p": (None, 1.0),
    "min_p": (None, 0.0),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
}
UNDERSTOOD = (
    *PROCESSING,
    *SAMPLING,
    "do_sample",
    "max_new_tokens",
    "min_new_tokens",
    "max_length",
    "min_length",
    "max_time",
    "stop_strings",
    "eos_token_id",  # ends a text beside the model's own mark
    "num_return_sequences",
    "pad_token_id",  # Transformers' users give it by habit; a model's own is used
    "return_dict_in_generate",
    "use_cache",  # it always is, and no token depends on it
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "cache_implementation",
    "compile_config",
    "disable_compile",
)
# What a model folder's configuration may hold and no written token depends on; ids are those of the model's own config.
IGNORED = (
    "bos_token_id",
    "decoder_start_token_id",
    "transformers_version",
    "_from_model_config",
    "cache_config",
    "max_cache_len",
)
# Arguments of Transformers' own `generate` beside its settings: who passes them on passes None, too.
GIVEN = {
    *(name for name in inspect.signature(GenerationMixin.generate).parameters if name != "self"),
    *("synced_gpus", "past_key_values", CACHE_KEY, "inputs_embeds", "position_ids", "token_type_ids"),
}
CACHES = (None, "dynamic", "static")
SWITCHES = ("do_sample", "use_cache", "return_dict_in_generate", "disable_compile")
# Every other setting is refused where it is set to something else than None, False or the value here.
# Pipelines of older releases fill in what nobody set.
NEUTRAL = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
}
# Why some are not there, and what is there instead.
NO_BEAMS = "there is no beam search; draw several texts with do_sample=True and num_return_sequences"
NO_ASSISTANT = "a model drafts for itself; see num_draft and prompt_lookup_num_tokens"
NO_OUTPUTS = "texts and ids are handed out; forward has the rest for ids that were written"
INSTEAD = {
    **dict.fromkeys(
        ("num_beams", "num_beam_groups", "length_penalty", "early_stopping", "diversity_penalty"), NO_BEAMS
    ),
    **dict.fromkeys(("constraints", "force_words_ids"), NO_BEAMS),
    **dict.fromkeys(("assistant_model", "assistant_tokenizer", "num_assistant_tokens"), NO_ASSISTANT),
    **dict.fromkeys(("output_scores", "output_logits", "output_attentions", "output_hidden_states"), NO_OUTPUTS),
    "penalty_alpha": "there is no contrastive search; repetition_penalty and do_sample=True keep texts from looping",
    "prefix_allowed_tokens_fn": "give it as one of logits_processor, which are called for one text at a time",
    "guidance_scale": "no second prompt is read; give one of logits_processor",
    "inputs_embeds": "prompts are texts or ids",
    **dict.fromkeys(("past_key_values", CACHE_KEY), "a prompt is read whole, into a cache of its own; give all of it"),
    "position_ids": "positions are counted along attention_mask",
    "negative_prompt_ids": "no second prompt is read; give one of logits_processor",
    "custom_generate": "these models write in their own way; give logits_processor and stopping_criteria",
}
# Type, least and largest value of each number that a call of `generate` may be given.
RANGES: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 1e-6, 1e6),
    "top_k": (int, 0, math.inf),
    "top_p": (float, 0, 1),
    "min_p": (float, 0, 1),
    "typical_p": (float, 1e-6, 1),
    "epsilon_cutoff": (float, 0, 1 - 1e-6),
    "eta_cutoff": (float, 0, 1 - 1e-6),
    "repetition_penalty": (float, 1e-3, 1e3),
    "no_repeat_ngram_size": (int, 0, math.inf),
    "max_length": (int, 0, math.inf),
    "min_length": (int, 0, math.inf),
    "max_time": (float, 0, math.inf),
    "num_return_sequences": (int, 1, math.inf),
    "seed": (int, 0, 2**64 - 1),
    "max_new_tokens": (int, 0, math.inf),
    "min_new_tokens": (int, 0, math.inf),
    "max_new_sentences": (int, 0, math.inf),
    "prompt_lookup_num_tokens": (int, 1, 256),  # the memory that drafts take grows with the cube
    "max_matching_ngram_size": (int, 1, 64),  # and with a text's length times the square of this
    "num_samples": (int, 0, math.inf),
    "vector_temperature": (float, 0, 1),
}
HINTS = {
    "temperature": "; do_sample=False always takes the most probable token",
    "vector_temperature": "; 0 always takes the same vector, 1 draws as was trained",
    "prompt_lookup_num_tokens": "; None looks nothing up",
}


def check_number(name: str, value: Any) -> Any:
    """A number of `RANGES` as a plain int or float; NumPy's count as numbers, True and "3" do not. None stays None.

    Raises:
        ValueError: another type, or a value out of the range.
    """
    if value is None:
        return None
    kind, least, most = RANGES[name]
    abstract: Any = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, abstract) and not isinstance(value, bool) and least <= value <= most:
        return kind(value)
    noun = "a whole number" if kind is int else "a number"
    span = f"of {least:,} or more" if most == math.inf else f"from {least} to {'2**64 - 1' if name == 'seed' else most}"
    raise ValueError(f"{name}={value!r}: give {noun} {span}{HINTS.get(name, '')}.")


def merge_generation_config(base: GenerationConfig, given: GenerationConfig | None, kwargs: dict) -> GenerationConfig:
    """The settings of one call: keywords over the given configuration over the model's own.

    What a model folder's own configuration holds and generation here does not have is left out, with a warning.

    Raises:
        ValueError: a keyword that generation does not know, a setting that it does not support, a value out of range.
    """
    if not isinstance(given, GenerationConfig | None):
        raise ValueError(
            f"generation_config is a {type(given).__name__}: give a GenerationConfig, or its fields by keyword."
        )
    config = copy.deepcopy(base)
    if dropped := unsupported(config):
        logger.warning(f"{', '.join(dropped)} of the model's generation_config.json: not supported, so left out.")
        for name, neutral in dropped.items():
            setattr(config, name, neutral)
    asks_nothing = {name for name, value in kwargs.items() if name in GIVEN and (value is None or value is False)}
    kwargs = {name: value for name, value in kwargs.items() if name not in asks_nothing}
    if unknown := [name for name in kwargs if name not in DEFAULTS or name in IGNORED]:
        raise ValueError(
            "; ".join(f"generate() does not know {_shown(name, kwargs[name])}" for name in unknown)
            + f". It understands {', '.join(sorted(UNDERSTOOD))}."
        )
    over = {} if given is None else vars(given)
    over = {name: value for name, value in over.items() if value is not None and name not in IGNORED}
    for name, value in (over | kwargs).items():  # not config.update, which refuses max_new_tokens=0
        setattr(config, name, value)
    if refused := unsupported(config):
        shown = "; ".join(_shown(name, getattr(config, name)) for name in refused)
        raise ValueError(f"{shown}: not supported; greedy decoding and sampling are, always cached.")
    cache = config.cache_implementation
    if cache not in CACHES and (given is not None or "cache_implementation" in kwargs):
        raise ValueError(f"cache_implementation={cache!r}: choose 'static', which compiles the steps, or 'dynamic'.")
    for name in SWITCHES:
        value = getattr(config, name)
        if not isinstance(value, bool | np.bool_ | None):
            raise ValueError(f"{name}={value!r}: give True or False.")
        setattr(config, name, value if value is None else bool(value))
    for name in RANGES.keys() & DEFAULTS.keys():
        value = getattr(config, name)
        if (name, value, config.do_sample or False) != ("temperature", 0, False):  # a habit, which is warned of below
            setattr(config, name, check_number(name, value))
    config.stop_strings = check_stop_strings(config.stop_strings) or None
    if (config.num_return_sequences or 1) > 1 and not config.do_sample:
        raise ValueError(
            f"num_return_sequences={config.num_return_sequences!r}: greedy decoding would write the same text again; "
            "give do_sample=True."
        )
    unused = [name for name, neutral in SAMPLING.items() if getattr(config, name) not in neutral]
    if unused and not config.do_sample:
        logger.warning(f"{', '.join(unused)} change nothing without do_sample=True: decoding is greedy.")
    return config


def _shown(name: str, value: Any) -> str:
    """A setting with its value, and what there is instead."""
    return f"{name}={value!r:.60}" + (f" ({INSTEAD[name]})" if name in INSTEAD else "")


def end_ids(config: GenerationConfig, own: int, vocab_size: int) -> list[int]:
    """The ids that end a text: the model's own mark first, then those that a call or its model's folder adds.

    Raises:
        ValueError: something that is no id of the vocabulary.
    """
    more = _ids("eos_token_id", config, vocab_size, f"they end a text beside the model's own {own}, which always does")
    return list(dict.fromkeys([own, *more]))


def settle_ids(config: GenerationConfig, own: int, vocab_size: int) -> None:
    """Bring the ids that a configuration names into lists: those that end a text, as `end_ids` has them, and those that
    are not written.

    Raises:
        ValueError: something that is no id of the vocabulary, and would count for nothing.
    """
    config.eos_token_id = end_ids(config, own, vocab_size)
    if config.suppress_tokens is not None:
        config.suppress_tokens = _ids("suppress_tokens", config, vocab_size, "none of them is written")


def _ids(name: str, config: GenerationConfig, vocab_size: int, meaning: str) -> list[int]:
    """A setting as a list of ids of the vocabulary."""
    value: Any = getattr(config, name)
    plain = value.tolist() if hasattr(value, "tolist") else value  # of a tensor or an array
    found: list[Any] = [] if plain is None else list(plain) if isinstance(plain, list | tuple) else [plain]
    for i in found:
        if not isinstance(i, numbers.Integral) or isinstance(i, bool) or not 0 <= int(i) < vocab_size:
            raise ValueError(
                f"{name}={value!r}: give an id or a list of ids of the vocabulary of {vocab_size}; {meaning}."
            )
    return [int(i) for i in found]


def take_ids(config: GenerationConfig, own: Any, lm: PreTrainedModel) -> None:
    """Let a model that was made of a language model end texts where that does: its own marks first, and where the other
    has several (a turn's end is one), those, too.

    Args: own: the model's configuration.
    """
    ends = [own.eos_token_id]
    for source in (getattr(lm, "generation_config", None), lm.config):  # a trunk has no settings of writing
        if isinstance(several := getattr(source, "eos_token_id", None), list):
            ends += [end for end in several if end not in ends]
    config.update(pad_token_id=own.pad_token_id, eos_token_id=ends if len(ends) > 1 else ends[0])


def text_limits(config: GenerationConfig, num_given: int, default: int = DEFAULT_NEW_TOKENS) -> tuple[int, int]:
    """New tokens of a text, at most, and before which it may not end.

    Args:
        num_given: ids of the prompt, the opening one with them, which max_length and min_length count.
        default: tokens where nothing limits them.
    """
    if config.max_new_tokens is None and config.max_length is not None and config.max_length <= num_given:
        logger.warning(
            f"max_length={config.max_length} counts the prompt and its opening id, which are {num_given} tokens: "
            "nothing is written. Give max_new_tokens."
        )
    limit = default if config.max_length is None else max(config.max_length - num_given, 0)
    limit = limit if config.max_new_tokens is None else config.max_new_tokens
    return limit, max(config.min_new_tokens or 0, (config.min_length or 0) - num_given)


def unsupported(config: GenerationConfig) -> dict[str, Any]:
    """Settings that generation here does not have and that would change something, with values that change nothing."""
    neutral = DEFAULTS | NEUTRAL
    return {
        name: neutral.get(name)
        for name, value in config.to_dict().items()
        if name not in UNDERSTOOD + IGNORED and not (value is None or value is False or value == neutral.get(name))
    }


def neutral_settings(own: GenerationConfig) -> dict[str, Any]:
    """What keeps Transformers' own `generate` from carrying out what a model's folder sets: that is done here."""
    kept = (*IGNORED, "eos_token_id", "pad_token_id", "do_sample", "use_cache", "return_dict_in_generate")
    reckoned = {"num_return_sequences": 1, "num_beams": 1}  # None is no number
    return {k: reckoned.get(k) for k, v in own.to_dict().items() if v is not None and k not in kept}
