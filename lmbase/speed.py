"""Generation speed and cache size, measured side by side: A B A B, in one process, after a warm-up."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Cache, OPTForCausalLM
from transformers.generation.streamers import BaseStreamer

PUBLISHED_SENTENCE_TOKENS = 10  # tokens after which a token-level model is taken to have written a first sentence


@dataclass
class Generation:
    """One timed call: prompt ids in, new tokens out."""

    seconds: float
    seconds_to_first_sentence: float
    num_new_tokens: int
    cache_bytes: int
    num_cached_tokens: int  # tokens of text that the cache stands for

    @property
    def tokens_per_second(self) -> float:
        return self.num_new_tokens / self.seconds

    @property
    def cache_bytes_per_token(self) -> float:
        return self.cache_bytes / self.num_cached_tokens


@dataclass
class Arrivals(BaseStreamer):
    """A streamer that notes when text arrives."""

    started: float = field(default_factory=time.perf_counter)
    moments: list[tuple[float, int]] = field(default_factory=list)  # seconds since the start, tokens so far

    def put(self, value: Tensor) -> None:
        before = self.moments[-1][1] if self.moments else -value.numel()  # the first call brings the prompt
        self.moments.append((time.perf_counter() - self.started, before + value.numel()))

    def end(self) -> None:
        pass

    def seconds_until(self, num_tokens: int) -> float:
        """Seconds until at least `num_tokens` new tokens had come."""
        return next((t for t, n in self.moments if n >= num_tokens), self.moments[-1][0])


def cache_bytes(cache: Cache) -> int:
    """Bytes of all keys and values, counted from the tensors."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@torch.no_grad()
def time_opt(opt: OPTForCausalLM, prompt: Tensor, num_new_tokens: int) -> Generation:
    """Greedy decoding of (1, L) ids by Transformers' own `generate` with its cache; end marks disabled."""
    arrivals = Arrivals()
    output = opt.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num_new_tokens,
        min_new_tokens=num_new_tokens,
        do_sample=False,
        streamer=arrivals,
        return_dict_in_generate=True,
    )
    seconds = time.perf_counter() - arrivals.started
    cached = output.past_key_values.get_seq_length()
    first = arrivals.seconds_until(PUBLISHED_SENTENCE_TOKENS)
    return Generation(seconds, first, num_new_tokens, cache_bytes(output.past_key_values), cached)


def alternate(runners: Mapping[str, Callable[[], Generation]], num_rounds: int = 5) -> dict[str, list[Generation]]:
    """Run all in turn, A B A B, `num_rounds` times after one warm-up each."""
    for run in runners.values():
        run()
    found: dict[str, list[Generation]] = {name: [] for name in runners}
    for _ in range(num_rounds):
        for name, run in runners.items():
            found[name].append(run())
    return found


def median(values: list[float]) -> float:
    return statistics.median(values)


def pairwise_ratio(a: list[Generation], b: list[Generation]) -> tuple[float, float, float]:
    """Median, lowest and highest of a's tokens per second over b's, pair by pair."""
    ratios = [x.tokens_per_second / y.tokens_per_second for x, y in zip(a, b, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
