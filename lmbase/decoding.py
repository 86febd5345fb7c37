"""From logits to tokens: what all generate methods share.

B texts, V vocabulary.
"""

import copy
from typing import cast

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

logger = logging.get_logger(f"transformers.{__name__}")  # below Transformers' own, so that its verbosity holds

DEFAULT_NEW_TOKENS = 128
UNDERSTOOD = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "max_new_tokens",
    "min_new_tokens",
    "pad_token_id",  # Transformers' users give it by habit; a model's own is used
    "return_dict_in_generate",
    "use_cache",  # it always is, and no token depends on it
)
# What a model folder's configuration may hold and no written token depends on; ids are those of the model's own config.
IGNORED = (
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "transformers_version",
    "_from_model_config",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "compile_config",
    "disable_compile",
)
# Sampling settings, with the values that change nothing.
SAMPLING = {"temperature": (None, 1.0), "top_k": (None, 0), "top_p": (None, 1.0)}
# Every other setting is refused where it is set to something else than None, False or the value here.
NEUTRAL = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "length_penalty": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
}


def merge_generation_config(base: GenerationConfig, given: GenerationConfig | None, kwargs: dict) -> GenerationConfig:
    """The settings of one call: keywords over the given configuration over the model's own.

    Raises:
        ValueError: a keyword that generation does not know, or a setting that it does not support.
    """
    config = copy.deepcopy(given if given is not None else base)
    defaults = GenerationConfig().to_dict()
    unknown = [name for name in kwargs if name not in defaults or name in IGNORED]
    if unknown:
        raise ValueError(
            f"generate() does not know {', '.join(unknown)}; it understands {', '.join(sorted(UNDERSTOOD))}."
        )
    for name, value in kwargs.items():  # not config.update, which refuses max_new_tokens=0
        setattr(config, name, value)
    unsupported = [
        f"{name}={value!r}"
        for name, value in config.to_dict().items()
        if name not in UNDERSTOOD + IGNORED
        and not (value is None or value is False or value == NEUTRAL.get(name, defaults.get(name)))
    ]
    if unsupported:
        raise ValueError(f"{', '.join(unsupported)}: not supported; greedy decoding and sampling are, always cached.")
    if config.max_new_tokens is not None and config.max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={config.max_new_tokens} must not be negative.")
    if config.do_sample and config.temperature is not None and config.temperature <= 0:
        raise ValueError(f"temperature={config.temperature}: sampling needs one above 0; do_sample=False is greedy.")
    unused = [name for name, neutral in SAMPLING.items() if getattr(config, name) not in neutral]
    if unused and not config.do_sample:
        logger.warning(f"{', '.join(unused)} change nothing without do_sample=True: decoding is greedy.")
    return config


class Sampler:
    """Chooses one token per row: the most probable, or a draw from the warped distribution."""

    def __init__(
        self,
        config: GenerationConfig,
        device: torch.device | str,
        seed: int | None = None,
        processors: LogitsProcessorList | None = None,
    ):
        self.greedy = not config.do_sample
        self.processors = processors
        self.warpers = LogitsProcessorList()
        if not self.greedy:
            if config.temperature not in (None, 1.0):
                self.warpers.append(TemperatureLogitsWarper(config.temperature))
            if config.top_k:
                self.warpers.append(TopKLogitsWarper(config.top_k))
            if config.top_p is not None and config.top_p < 1.0:
                self.warpers.append(TopPLogitsWarper(config.top_p))
        self.generator = None
        if seed is not None:
            self.generator = torch.Generator(device).manual_seed(seed)

    def probs(self, logits: Tensor) -> Tensor:
        """(B, V) probabilities that a draw is taken from."""
        no_ids = cast(torch.LongTensor, None)  # these warpers look at logits alone
        return self.warpers(no_ids, cast(torch.FloatTensor, logits.float())).softmax(-1)

    def __call__(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        """(B, V) -> token ids (B,); input_ids (B, L) are what the user's logits processors are shown."""
        if self.processors:
            logits = self.processors(cast(torch.LongTensor, input_ids), cast(torch.FloatTensor, logits))
        if self.greedy:
            return logits.argmax(-1)
        return torch.multinomial(self.probs(logits), 1, generator=self.generator).squeeze(-1)

    def yes(self, log_odds: Tensor) -> Tensor:
        """A yes-or-no choice for each of (B,) log-odds."""
        if self.greedy:
            return log_odds > 0
        draws = torch.rand(log_odds.shape, generator=self.generator, device=log_odds.device)
        return draws < log_odds.sigmoid()
