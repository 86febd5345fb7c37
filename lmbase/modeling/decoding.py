"""From logits to tokens: what all generate methods share.

B texts, V vocabulary.
"""

import copy
from collections.abc import Callable
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
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "cache_implementation",
    "compile_config",
    "disable_compile",
)
# What a model folder's configuration may hold and no written token depends on; ids are those of the model's own config.
IGNORED = (
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "transformers_version",
    "_from_model_config",
    "cache_config",
    "max_cache_len",
)
CACHES = (None, "dynamic", "static")
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
    cache = config.cache_implementation
    if cache not in CACHES and (given is not None or "cache_implementation" in kwargs):
        raise ValueError(f"cache_implementation={cache!r}: choose 'static', which compiles the steps, or 'dynamic'.")
    if config.max_new_tokens is not None and config.max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={config.max_new_tokens} must not be negative.")
    if config.do_sample and config.temperature is not None and config.temperature <= 0:
        raise ValueError(f"temperature={config.temperature}: sampling needs one above 0; do_sample=False is greedy.")
    unused = [name for name, neutral in SAMPLING.items() if getattr(config, name) not in neutral]
    if unused and not config.do_sample:
        logger.warning(f"{', '.join(unused)} change nothing without do_sample=True: decoding is greedy.")
    return config


class GumbelNoise:
    """What makes a draw of each token of each text: the largest of log p + noise is a draw from p.

    Noise belongs to a place in a text, not to a forward pass: a guess of that token and the model's own choice, made
    with the same noise, agree as often as their distributions are alike, and the same seed gives the same text however
    tokens were guessed (arXiv 2408.07978).
    """

    def __init__(self, num_texts: int, vocab_size: int, device: torch.device | str, seed: int | None = None):
        if seed is None:  # then PyTorch's own random state decides
            seed = int(torch.randint(2**62, ()))
        self.generators = [torch.Generator(device).manual_seed((seed + 7919 * b) % 2**63) for b in range(num_texts)]
        self.vocab_size, self.device = vocab_size, device
        self.held: list[dict[int, Tensor]] = [{} for _ in range(num_texts)]
        self.drawn = [0] * num_texts

    def at(self, places: list[tuple[int, int]]) -> Tensor:
        """(R, V) for R places, each a text's number and a token's number in it."""
        return torch.stack([self._one(text, position) for text, position in places])

    def _one(self, text: int, position: int) -> Tensor:
        held = self.held[text]
        while self.drawn[text] <= position:  # always in order, so that it does not depend on what was asked for
            waiting = torch.empty(self.vocab_size, device=self.device, dtype=torch.float32)
            held[self.drawn[text]] = -waiting.exponential_(generator=self.generators[text]).log()
            self.drawn[text] += 1
        return held[position]

    def forget(self, text: int, before: int) -> None:
        """Let go of the noise of a text's tokens before this one."""
        for position in [p for p in self.held[text] if p < before]:
            del self.held[text][position]


class Sampler:
    """Chooses tokens for places in texts: the most probable one, or a draw from the warped distribution.

    Args:
        seed: makes draws repeatable.
        processors: the user's; they see one text at a time, with the ids that stand before the token.
    """

    def __init__(
        self,
        config: GenerationConfig,
        num_texts: int,
        vocab_size: int,
        device: torch.device | str,
        seed: int | None = None,
        processors: LogitsProcessorList | None = None,
    ):
        self.processors = processors
        self.warpers = LogitsProcessorList()
        self.noise: GumbelNoise | None = None
        self.generator = None
        if config.do_sample:
            self.noise = GumbelNoise(num_texts, vocab_size, device, seed)
            if config.temperature not in (None, 1.0):
                self.warpers.append(TemperatureLogitsWarper(config.temperature))
            if config.top_k:
                self.warpers.append(TopKLogitsWarper(config.top_k))
            if config.top_p is not None and config.top_p < 1.0:
                self.warpers.append(TopPLogitsWarper(config.top_p))
        if seed is not None:
            self.generator = torch.Generator(device).manual_seed(seed)

    def process(self, logits: Tensor, before: Callable[[int], list[int]]) -> Tensor:
        """Logits (R, V) after the user's processors; `before` has the ids that stand before row r's token."""
        if not self.processors:
            return logits
        rows = []
        for row, one in enumerate(logits.split(1)):
            ids = torch.tensor([before(row)], dtype=torch.long, device=logits.device)
            rows.append(self.processors(cast(torch.LongTensor, ids), cast(torch.FloatTensor, one)))
        return torch.cat(rows)

    def scores(self, logits: Tensor, places: list[tuple[int, int]]) -> Tensor:
        """(R, V) whose largest entries are the choices, best first.

        Args:
            places: for each row the text and the number of the token in it that is chosen.
        """
        if self.noise is None:
            return logits
        no_ids = cast(torch.LongTensor, None)  # these warpers look at logits alone
        return self.warpers(no_ids, cast(torch.FloatTensor, logits.float())) + self.noise.at(places)

    def candidate_scores(self, logits: Tensor, ids: Tensor, places: list[tuple[int, int]]) -> Tensor:
        """The same for guesses among m candidates: logits (R, P, m) in P cases, ids (R, m) -> (R, P, m)."""
        if self.noise is None:
            return logits
        warped = self.warpers(cast(torch.LongTensor, None), cast(torch.FloatTensor, logits.flatten(0, 1)))
        return warped.view_as(logits) + self.noise.at(places).gather(1, ids)[:, None]

    def choose(self, logits: Tensor, places: list[tuple[int, int]]) -> Tensor:
        """Logits (R, V) -> token ids (R,); arguments as for `scores`."""
        return self.scores(logits, places).max(-1).indices  # on CPUs three times as fast as argmax

    def forget(self, text: int, before: int) -> None:
        """Tokens of a text before this one are chosen for good."""
        if self.noise is not None:
            self.noise.forget(text, before)

    def yes(self, log_odds: Tensor) -> Tensor:
        """A yes-or-no choice for each of (B,) log-odds."""
        if self.noise is None:
            return log_odds > 0
        draws = torch.rand(log_odds.shape, generator=self.generator, device=log_odds.device)
        return draws < log_odds.sigmoid()
