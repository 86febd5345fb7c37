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

DEFAULT_NEW_TOKENS = 128
UNDERSTOOD = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "max_new_tokens",
    "min_new_tokens",
    "pad_token_id",  # Transformers' users give it by habit; a model's own is used
    "return_dict_in_generate",  # always so
)
# Settings that change the output elsewhere and would silently be ignored here, with the value that changes nothing.
NEUTRAL = {
    "use_cache": True,
    "output_scores": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_p": None,
    "typical_p": 1.0,
    "max_length": None,
    "bad_words_ids": None,
    "num_beam_groups": 1,
    "penalty_alpha": None,
}


def merge_generation_config(base: GenerationConfig, given: GenerationConfig | None, kwargs: dict) -> GenerationConfig:
    """The settings of one call: keywords over the given configuration over the model's own.

    Raises:
        ValueError: a keyword that generation does not know, or a setting that it does not support.
    """
    config = copy.deepcopy(given if given is not None else base)
    unknown = [name for name in kwargs if name not in UNDERSTOOD and name not in NEUTRAL]
    if unknown:
        raise ValueError(
            f"generate() does not know {', '.join(unknown)}; it understands {', '.join(sorted(UNDERSTOOD))}."
        )
    for name, value in kwargs.items():  # not config.update, which refuses max_new_tokens=0
        setattr(config, name, value)
    for name, neutral in NEUTRAL.items():
        if getattr(config, name, None) not in (None, neutral):
            raise ValueError(
                f"{name}={getattr(config, name)} is not supported: greedy decoding and sampling are, always cached."
            )
    if config.max_new_tokens is not None and config.max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={config.max_new_tokens} must not be negative.")
    if config.do_sample and config.temperature is not None and config.temperature <= 0:
        raise ValueError(f"temperature={config.temperature}: sampling needs one above 0; do_sample=False is greedy.")
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
