"""From logits to tokens: what all generate methods share.

B texts, V vocabulary.
"""

import hashlib
import numbers
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from lmbase.modeling.settings import PROCESSING, SAMPLING, check_number

NO_TOKEN = -1


def mixed_bits(*parts: int) -> int:
    """64 bits that depend on each of the numbers and on nothing else: near places have nothing in common."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def draws_of(*parts: int) -> np.random.Generator:
    """What draws for a place that is named by numbers: a seed, a text's number ..."""
    return np.random.Generator(np.random.Philox(key=mixed_bits(*parts)))


def seed_or_random(seed: int | None) -> int:
    """The seed, checked; without one PyTorch's own random state decides."""
    return int(torch.randint(2**62, ())) if seed is None else check_number("seed", seed)


# What makes draws repeatable: a seed; or of each text a seed and its number among the texts of that seed, so that texts
# that are written together for several users come out as each user's would alone.
Seed = int | list[tuple[int, int]] | None


def check_seed(seed: Seed, num_texts: int) -> Seed:
    """A seed for all texts, or a list of a seed and a number for each, in plain ints: draws depend on their digits.

    Raises:
        ValueError: something else.
    """
    if not isinstance(seed, list):
        return check_number("seed", seed)
    for pair in seed:
        whole = isinstance(pair, tuple | list) and all(isinstance(x, numbers.Integral) for x in pair)
        if not whole or len(pair) != 2 or pair[1] < 0:
            raise ValueError(
                f"seed={seed!r:.60}: give one number, or a list of a seed and a text's number for each text."
            )
    if len(seed) != num_texts:
        raise ValueError(
            f"seed is a list of {len(seed)} and {num_texts} texts are written (num_return_sequences counts): give a "
            "pair for each, or one number for all."
        )
    return [(check_number("seed", number), int(text)) for number, text in seed]


class Origins:
    """What each text's draws belong to: its seed, and its number among the texts of that seed."""

    def __init__(self, seed: Seed = None):
        self.of_texts = seed if isinstance(seed, list) else None
        self.seed = 0 if isinstance(seed, list) else seed_or_random(seed)

    def of(self, text: int) -> tuple[int, int]:
        return (self.seed, text) if self.of_texts is None else self.of_texts[text]

    def keys(self, num_texts: int, number: int) -> Tensor:
        """(B,) keys for `lmbase.modeling.noise`, of the draw of this number in each text."""
        return torch.tensor([mixed_bits(*self.of(text), number, 2) >> 1 for text in range(num_texts)])


class GumbelNoise:
    """What makes a draw of each token of each text: the largest of log p + noise is a draw from p.

    Noise belongs to a place in a text, not to a forward pass: a guess of that token and the model's own choice, made
    with the same noise, agree as often as their distributions are alike, and the same seed gives the same text however
    tokens were guessed (arXiv 2408.07978). Nor does it depend on what other texts stand beside it in the batch.
    """

    def __init__(self, vocab_size: int, device: torch.device | str, seed: Seed = None):
        self.origins = Origins(seed)
        self.vocab_size, self.generator = vocab_size, torch.Generator(device)
        self.held: dict[int, dict[int, Tensor]] = defaultdict(dict)  # by text: tokens are guessed, then chosen

    def at(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """(R, V) for R places, each a text's number and a token's number in it."""
        return torch.stack([self._one(text, position) for text, position in places])

    def uniform(self, text: int, number: int) -> float:
        """A draw from 0 to 1, for choices of a text beside those of tokens."""
        return mixed_bits(*self.origins.of(text), number, 1) / 2**64

    def _one(self, text: int, position: int) -> Tensor:
        held = self.held[text]
        if position not in held:
            held[position] = -self._waiting(text, position).log()
        return held[position]

    def _waiting(self, text: int, position: int) -> Tensor:
        """(V,) draws of the exponential distribution."""
        if self.generator.device.type == "cpu":  # PyTorch's takes twice as long there, and reads half of the bits
            draws = draws_of(*self.origins.of(text), position)
            return torch.from_numpy(draws.standard_exponential(self.vocab_size)).float()
        waiting = torch.empty(self.vocab_size, device=self.generator.device, dtype=torch.float32)
        self.generator.manual_seed(mixed_bits(*self.origins.of(text), position))
        return waiting.exponential_(generator=self.generator)

    def forget(self, text: int, before: int) -> None:
        """Let go of the noise of a text's tokens before this one."""
        for position in [p for p in self.held[text] if p < before]:
            del self.held[text][position]


WARPERS: dict[str, Callable[[Any], LogitsProcessor]] = {
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": TypicalLogitsWarper,
    "epsilon_cutoff": EpsilonLogitsWarper,
    "eta_cutoff": EtaLogitsWarper,
}


def _configured(config: GenerationConfig, unpenalised: int) -> list[LogitsProcessor]:
    """The processors that settings stand for."""
    made: dict[str, Callable[[Any], LogitsProcessor]] = {
        "sequence_bias": SequenceBiasLogitsProcessor,
        "repetition_penalty": partial(RepetitionPenaltyLogitsProcessor, prompt_ignore_length=unpenalised),
        "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
        "bad_words_ids": partial(NoBadWordsLogitsProcessor, eos_token_id=config.eos_token_id),
        "suppress_tokens": SuppressTokensLogitsProcessor,
    }
    return [
        made[name](value) for name, neutral in PROCESSING.items() if (value := getattr(config, name)) not in neutral
    ]


class Sampler:
    """Chooses tokens for places in texts: the most probable one, or a draw from the warped distribution.

    Args:
        config: with every id that ends a text as its eos_token_id.
        seed: makes draws repeatable.
        processors: the user's, after those of the configuration; they see one text at a time, with the ids that stand
            before the token.
        unpenalised: ids at a text's beginning that a repetition penalty passes over.
    """

    def __init__(
        self,
        config: GenerationConfig,
        vocab_size: int,
        device: torch.device | str,
        seed: Seed = None,
        processors: Sequence[Callable] | None = None,
        unpenalised: int = 0,
    ):
        if processors is not None and not isinstance(processors, Sequence):
            raise ValueError(f"logits_processor is a {type(processors).__name__}: give a list of logits processors.")
        if others := [one for one in processors or () if not callable(one)]:
            raise ValueError(
                f"logits_processor holds {others[0]!r:.60}, which cannot be called: give logits processors."
            )
        self.processors = LogitsProcessorList([*_configured(config, unpenalised), *(processors or [])])
        self.warpers = LogitsProcessorList()
        self.noise: GumbelNoise | None = None
        if config.do_sample:
            self.noise = GumbelNoise(vocab_size, device, seed)
            for name, neutral in SAMPLING.items():
                if (value := getattr(config, name)) not in neutral:
                    self.warpers.append(WARPERS[name](value))

    @property
    def takes_largest(self) -> bool:
        """Whether the largest of the model's logits is the choice, whatever the others are."""
        return self.noise is None and not self.processors

    def process(self, logits: Tensor, before: Callable[[int], list[int]]) -> Tensor:
        """Logits (R, V) after the user's processors; `before` has the ids that stand before row r's token."""
        if not self.processors:
            return logits
        rows = []
        for row, one in enumerate(logits.split(1)):
            ids = torch.tensor([before(row)], dtype=torch.long, device=logits.device)
            found: Any = self.processors(cast(torch.LongTensor, ids), cast(torch.FloatTensor, one.float()))
            if not isinstance(found, Tensor) or found.shape != one.shape or not found.is_floating_point():
                shown = f"a {type(found).__name__}"
                if isinstance(found, Tensor):
                    shown = f"a tensor of shape {tuple(found.shape)} and type {found.dtype}"
                raise ValueError(
                    f"A logits processor returned {shown}: return the scores that it is given, changed or not, of "
                    f"shape {tuple(one.shape)} and a floating-point type."
                )
            rows.append(found)
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
        scores = self.sampler.process(scores, lambda row: input_ids[row].tolist())
        scores = self.sampler.scores(scores, places)
        if not (scores.amax(-1) > -torch.inf).all():
            raise ValueError("No token can be chosen: the model's logits are NaN or -inf; check its weights.")
        return scores
