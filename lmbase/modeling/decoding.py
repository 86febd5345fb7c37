"""From logits to tokens: what all generate methods share.

B texts, V vocabulary.
"""

import copy
import hashlib
import math
import numbers
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

logger = logging.get_logger(f"transformers.{__name__}")  # below Transformers' own, so that its verbosity holds

DEFAULT_NEW_TOKENS = 128
NO_TOKEN = -1
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
# Sampling settings, with the values that change nothing. What is not set changes nothing: Transformers' own top_k of 50
# would make draws of models that are written with its `generate` others than those of the models here.
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
# Type, least and largest value of each number that a call of `generate` may be given.
RANGES: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 1e-6, 1e6),
    "top_k": (int, 0, math.inf),
    "top_p": (float, 0, 1),
    "seed": (int, 0, 2**64 - 1),
    "max_new_tokens": (int, 0, math.inf),
    "min_new_tokens": (int, 0, math.inf),
    "max_new_sentences": (int, 0, math.inf),
    "prompt_lookup_num_tokens": (int, 1, math.inf),
    "max_matching_ngram_size": (int, 1, math.inf),
    "num_samples": (int, 0, math.inf),
}
HINTS = {
    "temperature": "; do_sample=False always takes the most probable token",
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
    config = copy.deepcopy(given if given is not None else base)
    if given is None and (dropped := unsupported(config)):
        logger.warning(f"{', '.join(dropped)} of the model's generation_config.json: not supported, so left out.")
        for name, neutral in dropped.items():
            setattr(config, name, neutral)
    defaults = GenerationConfig().to_dict()
    unknown = [name for name in kwargs if name not in defaults or name in IGNORED]
    if unknown:
        raise ValueError(
            f"generate() does not know {', '.join(unknown)}; it understands {', '.join(sorted(UNDERSTOOD))}."
        )
    for name, value in kwargs.items():  # not config.update, which refuses max_new_tokens=0
        setattr(config, name, value)
    if refused := unsupported(config):
        shown = ", ".join(f"{name}={getattr(config, name)!r}" for name in refused)
        raise ValueError(f"{shown}: not supported; greedy decoding and sampling are, always cached.")
    cache = config.cache_implementation
    if cache not in CACHES and (given is not None or "cache_implementation" in kwargs):
        raise ValueError(f"cache_implementation={cache!r}: choose 'static', which compiles the steps, or 'dynamic'.")
    for name in RANGES.keys() & defaults.keys():
        setattr(config, name, check_number(name, getattr(config, name)))
    if not isinstance(config.do_sample, bool | None):
        raise ValueError(f"do_sample={config.do_sample!r}: give True or False.")
    unused = [name for name, neutral in SAMPLING.items() if getattr(config, name) not in neutral]
    if unused and not config.do_sample:
        logger.warning(f"{', '.join(unused)} change nothing without do_sample=True: decoding is greedy.")
    return config


def unsupported(config: GenerationConfig) -> dict[str, Any]:
    """Settings that generation here does not have and that would change something, with values that change nothing."""
    neutral = {**GenerationConfig().to_dict(), **NEUTRAL}
    return {
        name: neutral.get(name)
        for name, value in config.to_dict().items()
        if name not in UNDERSTOOD + IGNORED and not (value is None or value is False or value == neutral.get(name))
    }


def mixed_bits(*parts: int) -> int:
    """64 bits that depend on each of the numbers and on nothing else: near places have nothing in common."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def draws_of(*parts: int) -> np.random.Generator:
    """What draws for a place that is named by numbers: a seed, a text's number ..."""
    return np.random.Generator(np.random.Philox(key=mixed_bits(*parts)))


def seed_or_random(seed: int | None) -> int:
    """The seed, checked; without one PyTorch's own random state decides."""
    return int(torch.randint(2**62, ())) if seed is None else check_number("seed", seed)


class GumbelNoise:
    """What makes a draw of each token of each text: the largest of log p + noise is a draw from p.

    Noise belongs to a place in a text, not to a forward pass: a guess of that token and the model's own choice, made
    with the same noise, agree as often as their distributions are alike, and the same seed gives the same text however
    tokens were guessed (arXiv 2408.07978). Nor does it depend on what other texts stand beside it in the batch.
    """

    def __init__(self, vocab_size: int, device: torch.device | str, seed: int | None = None):
        self.seed = seed_or_random(seed)
        self.vocab_size, self.generator = vocab_size, torch.Generator(device)
        self.held: dict[int, dict[int, Tensor]] = defaultdict(dict)  # by text: tokens are guessed, then chosen

    def at(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """(R, V) for R places, each a text's number and a token's number in it."""
        return torch.stack([self._one(text, position) for text, position in places])

    def uniform(self, text: int, number: int) -> float:
        """A draw from 0 to 1, for choices of a text beside those of tokens."""
        return mixed_bits(self.seed, text, number, 1) / 2**64

    def _one(self, text: int, position: int) -> Tensor:
        held = self.held[text]
        if position not in held:
            held[position] = -self._waiting(text, position).log()
        return held[position]

    def _waiting(self, text: int, position: int) -> Tensor:
        """(V,) draws of the exponential distribution."""
        if self.generator.device.type == "cpu":  # PyTorch's takes twice as long there, and reads half of the bits
            return torch.from_numpy(draws_of(self.seed, text, position).standard_exponential(self.vocab_size)).float()
        waiting = torch.empty(self.vocab_size, device=self.generator.device, dtype=torch.float32)
        self.generator.manual_seed(mixed_bits(self.seed, text, position))
        return waiting.exponential_(generator=self.generator)

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
        vocab_size: int,
        device: torch.device | str,
        seed: int | None = None,
        processors: Sequence[Callable] | None = None,
    ):
        if processors is not None and not isinstance(processors, Sequence):
            raise ValueError(f"logits_processor is a {type(processors).__name__}: give a list of logits processors.")
        self.processors = LogitsProcessorList(processors or [])
        self.warpers = LogitsProcessorList()
        self.noise: GumbelNoise | None = None
        check_number("seed", seed)
        if config.do_sample:
            self.noise = GumbelNoise(vocab_size, device, seed)
            if config.temperature not in (None, 1.0):
                self.warpers.append(TemperatureLogitsWarper(config.temperature))
            if config.top_k:
                self.warpers.append(TopKLogitsWarper(config.top_k))
            if config.top_p is not None and config.top_p < 1.0:
                self.warpers.append(TopPLogitsWarper(config.top_p))

    def process(self, logits: Tensor, before: Callable[[int], list[int]]) -> Tensor:
        """Logits (R, V) after the user's processors; `before` has the ids that stand before row r's token."""
        if not self.processors:
            return logits
        rows = []
        for row, one in enumerate(logits.split(1)):
            ids = torch.tensor([before(row)], dtype=torch.long, device=logits.device)
            rows.append(self.processors(cast(torch.LongTensor, ids), cast(torch.FloatTensor, one)))
        return torch.cat(rows)

    def scores(self, logits: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
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

    def choose(self, logits: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
        """Logits (R, V) -> token ids (R,), NO_TOKEN where none is possible; arguments as for `scores`."""
        best = self.scores(logits, places).max(-1)  # on CPUs three times as fast as argmax
        return best.indices.masked_fill(~(best.values > -torch.inf), NO_TOKEN)  # also where one is NaN

    def forget(self, text: int, before: int) -> None:
        """Tokens of a text before this one are chosen for good."""
        if self.noise is not None:
            self.noise.forget(text, before)

    def yes(self, log_odds: Tensor, places: Sequence[tuple[int, int]]) -> list[bool]:
        """A yes-or-no choice for each of (B,) log-odds.

        Args:
            places: for each the text and the number of the choice in it.
        """
        if self.noise is None:
            return (log_odds > 0).tolist()
        chances = log_odds.double().sigmoid().tolist()
        return [self.noise.uniform(*place) < chance for place, chance in zip(places, chances, strict=True)]


class SampledByTransformers(LogitsProcessor):
    """A sampler for Transformers' own `generate`, greedy: the largest of what this returns is the sampler's choice.

    So a plain model draws as those here do, and with the same seed the same.

    Args:
        num_given: ids of the prompt.
    """

    def __init__(self, sampler: Sampler, num_given: int):
        self.sampler, self.num_given = sampler, num_given

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        number = input_ids.shape[1] - self.num_given  # of the token in what is new
        places = [(text, number) for text in range(len(scores))]
        for text, _ in places:
            self.sampler.forget(text, number)
        scores = self.sampler.scores(scores, places)
        if not (scores.amax(-1) > -torch.inf).all():
            raise ValueError("No token can be chosen: the model's logits are NaN or -inf; check its weights.")
        return scores
