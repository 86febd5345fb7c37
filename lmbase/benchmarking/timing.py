"""Speed and cache size, measured side by side: A B A B, in one process, after a warm-up.

`alternate` runs what is compared, `ratio_columns` and `spread_columns` make figures of a table of what it found. B
texts, L tokens.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import CacheLayerMixin
from transformers.generation.streamers import BaseStreamer

from lmbase.modeling.cache import CACHE_KEY
from lmbase.modeling.compiling import compile_settings
from lmbase.modeling.trunk import special_ids
from lmbase.text.tokenizers import encode_text

KeyT = TypeVar("KeyT")
ResultT = TypeVar("ResultT")

FEWEST_ROUNDS = 2  # where rounds are slow
COMPILED = ", compiled"  # ends the names of rows
PUBLISHED_SENTENCE_TOKENS = 10  # tokens after which a token-level model is taken to have written a first sentence


@dataclass
class Generation:
    """One timed call: prompt in, new tokens out."""

    seconds: float = 0.0
    seconds_to_first_sentence: float = 0.0
    num_new_tokens: int = 0  # end marks not counted
    cache_bytes: int = 0
    num_cached_tokens: int = 1  # tokens of text that the cache stands for
    num_cached_positions: int = 1  # keys and values that a layer holds for them
    fixed_cache_bytes: int = 0  # of caches that do not grow with the text: a sentence decoder's
    tokens_per_forward: float | None = None  # of the verifying model, where tokens are drafted
    break_even: float | None = None  # tokens per forward above which drafting pays
    batch_size: int = 1
    steady_rate: float | None = None  # tokens per second after the first of them, or after the first sentence

    @property
    def tokens_per_second(self) -> float:
        return self.num_new_tokens / self.seconds

    @property
    def cache_bytes_per_token(self) -> float | None:
        """None where the cache stands for no text yet, as an SLLM's before its first sentence has ended."""
        return self.cache_bytes / self.num_cached_tokens if self.num_cached_tokens else None

    @property
    def tokens_per_position(self) -> float:
        return self.num_cached_tokens / self.num_cached_positions / self.batch_size


@dataclass
class Arrivals(BaseStreamer):
    """A streamer that notes when text arrives. With a tokenizer it decodes it, so that the clock covers that too."""

    tokenizer: PreTrainedTokenizerFast | None = None
    started: float = field(default_factory=lambda: time.perf_counter())
    moments: list[tuple[float, int]] = field(default_factory=list)  # seconds since the start, tokens so far

    def put(self, value: Tensor) -> None:
        if self.tokenizer is not None:
            self.tokenizer.decode(value)
        before = self.moments[-1][1] if self.moments else -value.numel()  # the first call brings the prompt
        self.moments.append((time.perf_counter() - self.started, before + value.numel()))

    def end(self) -> None:
        pass

    @property
    def seconds(self) -> float:
        """Until the last token came; until now where none was streamed, as with several texts."""
        return self.moments[-1][0] if self.moments else time.perf_counter() - self.started

    @property
    def tokens_per_pass(self) -> float | None:
        """Where each pass hands its tokens over together. The first call brought the prompt; the pass over it is not
        counted."""
        tokens = [count for _, count in self.moments[1:]]
        return (tokens[-1] - tokens[0]) / (len(tokens) - 1) if len(tokens) > 1 else None

    @property
    def steady_rate(self) -> float | None:
        """Tokens per second once the first of them had come, so without the prompt; None where nothing was streamed."""
        if len(self.moments) < 3:
            return None
        (_, (began, first), *_), (ended, last) = self.moments, self.moments[-1]
        return (last - first) / (ended - began)

    def seconds_until(self, num_tokens: int) -> float:
        """Seconds until at least `num_tokens` new tokens had come."""
        return next((t for t, n in self.moments if n >= num_tokens), self.moments[-1][0])


def cache_bytes(cache: Cache) -> int:
    """Bytes of all keys and values, counted from the tensors."""
    layers = cast(Iterable[CacheLayerMixin], cache.layers)
    return sum(tensor.nbytes for layer in layers for tensor in (layer.keys, layer.values) if tensor is not None)


@torch.no_grad()
def time_lm(
    lm: PreTrainedModel,
    prompt: Tensor | str,
    num_new_tokens: int,
    tokenizer: PreTrainedTokenizerFast | None = None,
    num_copied: int | None = None,
    **settings,
) -> Generation:
    """Greedy decoding with a token-level model by Transformers' own `generate` with its cache; end marks disabled.

    Args:
        prompt: (B, L) ids that begin with the opening one; or, with a tokenizer, a text: then text in, text out.
        num_copied: Transformers' prompt_lookup_num_tokens, for one text.
        settings: of `generate`, beside those.
    """
    arrivals = Arrivals(tokenizer)
    if isinstance(prompt, str):
        assert tokenizer is not None
        prompt = torch.tensor([[special_ids(lm.config).opening, *encode_text(tokenizer, prompt)]], device=lm.device)
    output = cast(Any, lm).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num_new_tokens,
        min_new_tokens=num_new_tokens,
        do_sample=False,
        prompt_lookup_num_tokens=num_copied,
        streamer=arrivals if len(prompt) == 1 else None,  # Transformers streams one text at a time
        return_dict_in_generate=True,
        **settings,
    )
    seconds = arrivals.seconds
    cache = output[CACHE_KEY]
    positions = int(cache.get_seq_length())  # a static cache has a tensor
    return Generation(
        seconds,
        arrivals.seconds_until(PUBLISHED_SENTENCE_TOKENS) if arrivals.moments else seconds,
        num_new_tokens * len(prompt),
        cache_bytes(cache),
        num_cached_tokens=positions * len(prompt),
        num_cached_positions=positions,
        tokens_per_forward=arrivals.tokens_per_pass if num_copied else None,
        batch_size=len(prompt),
        steady_rate=arrivals.steady_rate,
    )


def compared_settings(both: bool, device: str) -> dict[str, dict[str, Any]]:
    """Settings of `generate` by what the names of their rows end with: none, and if both are wanted compiled steps."""
    return {"": {}} | ({COMPILED: compile_settings(device)} if both else {})


# -- in turn -----------------------------------------------------------------------------------------------------------


def alternate(
    runners: Mapping[KeyT, Callable[[], ResultT]],
    num_rounds: int = 5,
    after_each: Callable[[], None] | None = None,
    most_seconds: float = math.inf,
) -> dict[KeyT, list[ResultT]]:
    """Run all in turn, A B A B, `num_rounds` times after one warm-up each, and something else after each round.

    Args: most_seconds: no round beyond the second begins that would likely end later than this.
    """
    for run in runners.values():
        run()
    found: dict[KeyT, list[ResultT]] = {name: [] for name in runners}
    started = time.perf_counter()
    for number in range(num_rounds):
        if number >= FEWEST_ROUNDS and (time.perf_counter() - started) * (number + 1) / number > most_seconds:
            break
        for name, run in runners.items():
            found[name].append(run())
        if after_each is not None:
            after_each()
    return found


def clocked(work: Callable[[], object]) -> Callable[[], float]:
    """The work as something to run in turn: it tells the seconds that it took, a GPU's part included."""

    def run() -> float:
        started = time.perf_counter()
        work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return run


def speeds(runs: Sequence[Generation]) -> list[float]:
    """Tokens per second of each round."""
    return [run.tokens_per_second for run in runs]


def spread_columns(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of the rounds, as columns of a table: `name`, `name`_low and `name`_high."""
    return {name: median(values), f"{name}_low": min(values), f"{name}_high": max(values)}


def known_median(values: Iterable[float | None]) -> float | None:
    """Of those that there are; None where there is none."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def ratio_columns(name: str, values: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """The same of values over those of a baseline, round by round."""
    return spread_columns(name, [x / y for x, y in zip(values, baseline, strict=True)])


def drafting_columns(runs: Sequence[Generation], prefix: str = "") -> dict[str, float]:
    """Tokens per forward pass where tokens were drafted, else no column."""
    found = known_median(run.tokens_per_forward for run in runs)
    return {} if found is None else {f"{prefix}tokens_per_forward": found}
