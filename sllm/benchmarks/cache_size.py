"""Bytes of the KV cache per token of text: counted for each rule of cutting, and seen in a process's memory.

A trunk caches one position for each sentence, so its bytes per token are those of a position over the tokens of a
sentence, and the rule that cuts the text decides. S sentences, L tokens, T tokens of a sentence.
"""

import functools
import gc
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import PositiveInt
from transformers import DynamicCache

from lmbase.benchmarking.peak_memory import in_own_process, start_of_peak
from lmbase.benchmarking.timing import cache_bytes
from lmbase.config import option
from lmbase.modeling.cache import CACHE_KEY
from lmbase.modeling.devices import DTYPES, moved
from lmbase.modeling.inference import inference
from lmbase.modeling.trunk import position_bytes, special_ids, trunk_of
from lmbase.report.rows import Row
from lmbase.text import is_unicode
from lmbase.text.padding import pad_sentences
from sllm.benchmarks.keys import MAX_SENTENCE_TOKENS, LengthKeys, ModelKeys, Part, RawTextKeys, measured
from sllm.benchmarks.replaying import MOST_SENTENCES, Build, random_sentences
from sllm.evaluation.details import lengths_by_rule
from sllm.evaluation.speed import decoder_cache_bytes
from sllm_data.open_data import make_processor

# -- counted -----------------------------------------------------------------------------------------------------------


@dataclass
class Cache(ModelKeys, RawTextKeys):
    """Bytes of keys and values per token, under every rule of cutting."""

    def measure(self) -> Iterator[Part]:
        corpus = self.raw_text()
        processor = make_processor(corpus, self.tokenizer, "sentence", MAX_SENTENCE_TOKENS)  # learns Punkt, too
        texts = [text for text in corpus.texts("test") if is_unicode(text)]
        lengths = lengths_by_rule(texts, processor)
        digest = hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).hexdigest()
        for build in self.builds():
            rows = functools.partial(self.rows, build, lengths)
            yield functools.partial(measured, rows, {"name": corpus.name, "sha256": digest})

    def rows(self, build: Build, lengths: Mapping[str, Sequence[int]]) -> list[Row]:
        """A row for the token-level model and one for the SLLM under each rule. Shapes are computed, weights are not:
        any size fits.

        Args:
            lengths: for each rule the tokens of the sentences of a text.

        Raises:
            ValueError: no text.
        """
        with torch.device("meta"):
            sllm = moved(build.sllm(build.lm()), dtype=DTYPES[self.dtype])
        position = position_bytes(sllm.config.trunk, DTYPES[self.dtype])  # of the token-level model, which is copied
        common: dict[str, Any] = dict(protocol="cache", dtype=self.dtype)
        rows = [Row(build.lm_name, kv_bytes_per_token=position, extra={"tokens_per_position": 1.0}, **common)]
        for rule, of_rule in lengths.items():
            if not of_rule:
                raise ValueError("There is no text whose sentences could be counted.")
            tokens = sum(of_rule) / len(of_rule)
            extra = {
                "rule": rule,
                "tokens_per_position": tokens,
                "sentences_per_1000_tokens": 1000 / tokens,
                "kv_ratio": 1 / tokens,
                "fixed_cache_bytes": decoder_cache_bytes(sllm),
            }
            rows.append(Row(build.sllm_name, kv_bytes_per_token=position / tokens, extra=extra, **common))
        return rows


# -- seen --------------------------------------------------------------------------------------------------------------

Reading = tuple[int, int, int]  # tokens read, bytes of the cache, bytes in use


@dataclass
class Resident(LengthKeys):
    """What a process grows by per token of context."""

    context_tokens: list[PositiveInt] = option([256, 1024, 2047], "of the subset resident: where memory is looked at")

    QUICK = {"context_tokens": [64, 128]}

    def parts(self, build: Build, lengths: Sequence[int]) -> Iterator[Callable[[], list[Row]]]:
        """
        Raises:
            ValueError: one context only, or one that the token-level model has no positions for; bf16 on a CPU; a
                system that does not tell.
        """
        if self.device == "cpu" and not Path("/proc/self/clear_refs").exists():
            raise ValueError("The subset `resident` reads a process's memory as Linux tells it; this system does not.")
        if self.dtype == "bf16" and self.device == "cpu":
            raise ValueError(
                "dtype=bf16: on a CPU the resident set then grows with every new length of a matrix product, too, by "
                "more than a cache takes. Measure the subset `resident` with --dtype fp32."
            )
        contexts = sorted(set(self.context_tokens))
        if len(contexts) < 2 or contexts[-1] >= MOST_SENTENCES:
            raise ValueError(
                f"context_tokens={contexts}: give two at least, all below the models' {MOST_SENTENCES} positions."
            )
        for name in (build.lm_name, build.sllm_name):
            yield functools.partial(self.rows, build, name, list(lengths), contexts)

    def rows(self, build: Build, name: str, lengths: Sequence[int], contexts: Sequence[int]) -> list[Row]:
        """What the resident set of a process grows by in which this model reads.

        Raises:
            ValueError: contexts that lie too close.
        """
        readings = in_own_process(self.grow, build, name, lengths, contexts)
        if len(readings) < len(contexts):
            raise ValueError(f"context_tokens={contexts}: one sentence passes two of them; set them further apart.")
        tokens, *seen = zip(*readings, strict=True)
        counted, resident = (float(np.polyfit(tokens, values, 1)[0]) for values in seen)
        extra = {"resident_bytes_per_token": resident, "resident_over_counted": resident / counted}
        return [self.row(name, f"resident {contexts[0]}-{contexts[-1]}", extra, kv_bytes_per_token=counted)]

    def grow(self, build: Build, name: str, lengths: Sequence[int], contexts: Sequence[int]) -> list[Reading]:
        """What this process holds when a model has read each of these numbers of tokens."""
        model = moved(build.model(name), self.device, DTYPES[self.dtype])
        reading = read_tokens if name == build.lm_name else read_sentences
        missing, found = list(contexts), []
        for tokens, cache in reading(model, random_sentences(lengths, contexts[-1], build.vocab_size)):
            if missing and tokens >= missing[0]:
                gc.collect()
                found.append((tokens, cache_bytes(cache), start_of_peak(self.device)))
                missing = [context for context in missing if context > tokens]
        return found


def read_tokens(lm: Any, sentences: Sequence[list[int]]) -> Iterator[tuple[int, DynamicCache]]:
    """A token-level model reads a text sentence by sentence: few tokens at once, so that what a forward pass takes does
    not hide what the cache takes."""
    cache, ids = DynamicCache(config=lm.config), [special_ids(lm.config).opening]
    for sentence in sentences:
        with inference(lm):
            trunk_of(lm)(torch.tensor([ids + sentence], device=lm.device), use_cache=True, **{CACHE_KEY: cache})
        ids = []
        yield cache.get_seq_length() - 1, cache


def read_sentences(sllm: Any, sentences: Sequence[list[int]]) -> Iterator[tuple[int, DynamicCache]]:
    """An SLLM reads a text sentence by sentence."""
    state, tokens = None, 0
    for sentence in sentences:
        batch = pad_sentences([[sentence]], sllm.config.pad_token_id).to(sllm.device)
        with inference(sllm):
            if state is None:
                state = sllm.prefill(**vars(batch))
            else:
                sllm.step(batch.input_ids[0], batch.attention_mask[0], state)
        tokens += len(sentence)
        yield tokens, cast(DynamicCache, state.past_key_values)
