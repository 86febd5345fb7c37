"""Bytes of the KV cache per token of text: counted for each rule of cutting, and seen in a process's memory.

A trunk caches one position for each sentence, so its bytes per token are those of a position over the tokens of a
sentence, and the rule that cuts the text decides. S sentences, L tokens, T tokens of a sentence.
"""

import gc
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from lmbase.benchmarking.peak_memory import in_own_process, start_of_peak
from lmbase.benchmarking.timing import cache_bytes
from lmbase.modeling.devices import DTYPES, moved
from lmbase.modeling.inference import inference, inference_method
from lmbase.modeling.trunk import special_ids, trunk_of, vector_width
from lmbase.report.rows import Row
from lmbase.text import RULES
from lmbase.text.padding import pad_sentences
from lmbase.text.processor import SentenceProcessor
from sllm.benchmarks.build import MOST_SENTENCES, Build, random_sentences
from sllm.evaluation.timing import decoder_cache_bytes
from sllm.sllm import SLLM

READ_AT_ONCE = 128  # tokens: few enough that what a forward pass takes does not hide what the cache takes


def lengths_by_rule(texts: Sequence[str], processor: SentenceProcessor) -> dict[str, list[int]]:
    """Tokens of each sentence when the texts are cut by each rule, with this processor's tokenizer, cap and Punkt."""
    found = {}
    for rule in RULES:
        cut = SentenceProcessor(processor.tokenizer, rule, processor.max_sentence_tokens, processor.punkt)
        found[rule] = [length for text in texts for length in cut.encode(text).sentence_lengths]
    return found


@inference_method
def position_bytes(trunk: PreTrainedModel) -> int:
    """Keys and values of one position in all layers, counted from the cache of a forward pass."""
    cache = DynamicCache(config=trunk.config)
    inputs = torch.zeros(1, 1, vector_width(trunk.config), dtype=trunk.dtype, device=trunk.device)
    trunk(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
    return cache_bytes(cache)


def measure_cache(build: Build, lengths: Mapping[str, Sequence[int]], dtype: str) -> list[Row]:
    """A row for the token-level model and one for the SLLM under each rule. Shapes are computed, weights
    are not: any size fits.

    Args:
        lengths: for each rule the tokens of the sentences of a text.

    Raises:
        ValueError: no text.
    """
    with torch.device("meta"):
        lm = build.lm()
        sllm = moved(build.sllm(lm), dtype=DTYPES[dtype])
        of_lm = position_bytes(trunk_of(moved(lm, dtype=DTYPES[dtype])))
        of_trunk = position_bytes(sllm.trunk)
    common: dict = dict(protocol="cache", dtype=dtype)
    rows = [Row(build.lm_name, kv_bytes_per_token=of_lm, extra={"tokens_per_position": 1.0}, **common)]
    for rule, of_rule in lengths.items():
        if not of_rule:
            raise ValueError("There is no text whose sentences could be counted.")
        tokens = sum(of_rule) / len(of_rule)
        extra = {
            "rule": rule,
            "tokens_per_position": tokens,
            "sentences_per_1000_tokens": 1000 / tokens,
            "kv_ratio": of_trunk / tokens / of_lm,
            "fixed_cache_bytes": decoder_cache_bytes(sllm),
        }
        rows.append(Row(build.sllm_name, kv_bytes_per_token=of_trunk / tokens, extra=extra, **common))
    return rows


# -- resident memory ---------------------------------------------------------------------------------------------------


def measure_resident(
    build: Build, lengths: Sequence[int], contexts: Sequence[int], dtype: str, device: str
) -> list[Row]:
    """What the resident set grows by per token of context, for both models, each in a process of its own.

    Args:
        lengths: tokens of the sentences of a text, over and over.
        contexts: numbers of tokens after which memory is looked at, two at least.

    Raises:
        ValueError: one context only, or one that the token-level model has no positions for; bf16 on a CPU; a system
            that does not tell.
    """
    if device == "cpu" and not Path("/proc/self/clear_refs").exists():
        raise ValueError("The subset `resident` reads a process's memory as Linux tells it; this system does not.")
    if dtype == "bf16" and device == "cpu":
        raise ValueError(
            "dtype=bf16: on a CPU the resident set then grows with every new length of a matrix product, too, by more "
            "than a cache takes. Measure the subset `resident` with --dtype fp32."
        )
    contexts = sorted(set(contexts))
    if len(contexts) < 2 or contexts[-1] >= MOST_SENTENCES:
        raise ValueError(
            f"context_tokens={contexts}: give two at least, all below the models' {MOST_SENTENCES} positions."
        )
    rows = []
    for name in (build.lm_name, build.sllm_name):
        settings = [json.dumps(value) for value in (asdict(build), list(lengths), contexts)]
        found = in_own_process("sllm.benchmarks.cache_size", name, dtype, device, *settings)
        tokens, held, resident = zip(*found, strict=True)
        if len(tokens) < len(contexts):
            raise ValueError(f"context_tokens={contexts}: one sentence passes two of them; set them further apart.")
        counted, seen = (float(np.polyfit(tokens, values, 1)[0]) for values in (held, resident))
        rows.append(
            Row(
                name,
                protocol=f"resident {contexts[0]}-{contexts[-1]}",
                dtype=dtype,
                device=device,
                kv_bytes_per_token=counted,
                extra={"resident_bytes_per_token": seen, "resident_over_counted": seen / counted},
            )
        )
    return rows


Reading = tuple[int, int, int]  # tokens read, bytes of the cache, bytes in use


def growth(pieces: Iterable[tuple[int, DynamicCache]], contexts: Sequence[int], device: str) -> list[Reading]:
    """What is held when each of these numbers of tokens is reached.

    Args:
        pieces: tokens read so far and the cache, after each piece of a text.
    """
    missing = list(contexts)
    found: list[Reading] = []
    for tokens, cache in pieces:
        if missing and tokens >= missing[0]:
            gc.collect()
            found.append((tokens, cache_bytes(cache), start_of_peak(device)))
            missing = [context for context in missing if context > tokens]
    return found


def read_tokens(
    lm: PreTrainedModel, sentences: Sequence[list[int]], contexts: Sequence[int]
) -> Iterator[tuple[int, DynamicCache]]:
    """A token-level model reads a text piece by piece; pieces end at each of the contexts, too."""
    cache = DynamicCache(config=lm.config)
    flat = [special_ids(lm.config).opening, *(i for sentence in sentences for i in sentence)]
    ids = torch.tensor([flat], device=lm.device)  # (1,1+L)
    cuts = sorted({*range(READ_AT_ONCE, len(flat), READ_AT_ONCE), *(1 + context for context in contexts)})
    for piece in ids.tensor_split(cuts, dim=1):
        if not piece.shape[1]:
            continue
        with inference(lm):
            trunk_of(lm)(piece, past_key_values=cache, use_cache=True)
        yield cache.get_seq_length() - 1, cache


def read_sentences(sllm: SLLM, sentences: Sequence[list[int]]) -> Iterator[tuple[int, DynamicCache]]:
    """An SLLM reads a text sentence by sentence."""
    padded = [vars(pad_sentences([[sentence]], sllm.config.pad_token_id)) for sentence in sentences]
    batches = [{key: value.to(sllm.device) for key, value in batch.items()} for batch in padded]
    with inference(sllm):
        state = sllm.prefill(**batches[0])
    tokens = len(sentences[0])
    yield tokens, cast(DynamicCache, state.past_key_values)
    for sentence, batch in zip(sentences[1:], batches[1:], strict=True):
        with inference(sllm):
            sllm.step(batch["input_ids"][0], batch["attention_mask"][0], state)
        tokens += len(sentence)
        yield tokens, cast(DynamicCache, state.past_key_values)


def _main(name: str, dtype: str, device: str, *settings: str) -> list[Reading]:
    options, lengths, contexts = map(json.loads, settings)
    build = Build(**options)
    lm = build.lm()
    text = random_sentences(lengths, contexts[-1], build.vocab_size, np.random.default_rng(0))
    if name == build.lm_name:
        pieces = read_tokens(moved(lm, device, DTYPES[dtype]), text, contexts)
    else:
        sllm = moved(build.sllm(lm), device, DTYPES[dtype])
        del lm
        pieces = read_sentences(sllm, text)
    return growth(pieces, contexts, device)


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
