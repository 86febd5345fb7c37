"""Bytes of the KV cache per token of text: counted for each rule of cutting, and seen in a process's memory.

A trunk caches one position for each sentence, so its bytes per token are those of a position over the tokens of a
sentence, and the rule that cuts the text decides. S sentences, L tokens, T tokens of a sentence.
"""

import gc
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import DynamicCache, OPTForCausalLM, OPTModel

from lmbase.benchmarking.peak_memory import in_own_process, start_of_peak
from lmbase.benchmarking.timing import cache_bytes
from lmbase.modeling.devices import DTYPES
from lmbase.modeling.inference import inference_method
from lmbase.report.rows import Row
from lmbase.text import RULES
from lmbase.text.padding import pad_sentences
from lmbase.text.processor import SentenceProcessor
from sllm.benchmarks.generation import random_sentences
from sllm.benchmarks.training import MOST_SENTENCES, Build
from sllm.evaluation.speed import decoder_cache_bytes
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
def position_bytes(trunk: OPTModel) -> int:
    """Keys and values of one position in all layers, counted from the cache of a forward pass."""
    cache = DynamicCache(config=trunk.config)
    width = trunk.get_input_embeddings().weight.shape[1]
    inputs = torch.zeros(1, 1, width, dtype=trunk.dtype, device=trunk.device)
    trunk(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
    return cache_bytes(cache)


def measure_cache(build: Build, lengths: Mapping[str, Sequence[int]], dtype: str) -> list[Row]:
    """A row for OPT and one for the SLLM under each rule. Shapes are computed, weights are not: any size fits.

    Args:
        lengths: for each rule the tokens of the sentences of a text.

    Raises:
        ValueError: no text.
    """
    with torch.device("meta"):
        opt = build.opt()
        sllm = build.sllm(opt).to(DTYPES[dtype])  # type: ignore[arg-type]
        of_opt, of_trunk = position_bytes(opt.to(DTYPES[dtype]).model), position_bytes(sllm.trunk)  # type: ignore[arg-type]
    common: dict = dict(protocol="cache", dtype=dtype)
    rows = [Row(f"OPT {build.size}", kv_bytes_per_token=of_opt, extra={"tokens_per_position": 1.0}, **common)]
    for rule, of_rule in lengths.items():
        if not of_rule:
            raise ValueError("There is no text whose sentences could be counted.")
        tokens = sum(of_rule) / len(of_rule)
        extra = {
            "rule": rule,
            "tokens_per_position": tokens,
            "sentences_per_1000_tokens": 1000 / tokens,
            "kv_ratio": of_trunk / tokens / of_opt,
            "fixed_cache_bytes": decoder_cache_bytes(sllm),
        }
        rows.append(Row(f"SLLM {build.size}", kv_bytes_per_token=of_trunk / tokens, extra=extra, **common))
    return rows


# -- resident memory ---------------------------------------------------------------------------------------------------


def measure_resident(
    build: Build, lengths: Sequence[int], contexts: Sequence[int], dtype: str, device: str
) -> list[Row]:
    """What the resident set grows by per token of context, for OPT and the SLLM, each in a process of its own.

    Args:
        lengths: tokens of the sentences of a text, over and over.
        contexts: numbers of tokens after which memory is looked at, two at least.

    Raises:
        ValueError: one context only, or one that OPT has no positions for; bf16 on a CPU; a system that does not tell.
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
        raise ValueError(f"context_tokens={contexts}: give two at least, all below OPT's {MOST_SENTENCES} positions.")
    rows = []
    for kind in ("OPT", "SLLM"):
        settings = [json.dumps(value) for value in (asdict(build), list(lengths), contexts)]
        found = in_own_process("sllm.benchmarks.cache_size", kind, dtype, device, *settings)
        tokens, held, resident = zip(*found, strict=True)
        if len(tokens) < len(contexts):
            raise ValueError(f"context_tokens={contexts}: one sentence passes two of them; set them further apart.")
        counted, seen = (float(np.polyfit(tokens, values, 1)[0]) for values in (held, resident))
        rows.append(
            Row(
                f"{kind} {build.size}",
                protocol=f"resident {contexts[0]}-{contexts[-1]}",
                dtype=dtype,
                device=device,
                kv_bytes_per_token=counted,
                extra={"resident_bytes_per_token": seen, "resident_over_counted": seen / counted},
            )
        )
    return rows


Reading = tuple[int, int, int]  # tokens read, bytes of the cache, bytes in use


@inference_method
def growth(model: OPTForCausalLM | SLLM, lengths: Sequence[int], contexts: Sequence[int]) -> list[Reading]:
    """Read one text piece by piece; what is held when each of these numbers of tokens is reached."""
    sentences = random_sentences(lengths, contexts[-1], model.config.vocab_size, np.random.default_rng(0))
    if isinstance(model, SLLM):
        read = _read_sentences(model, sentences)
    else:
        read = _read_tokens(model, sentences, contexts)
    missing = list(contexts)
    found: list[Reading] = []
    for tokens, cache in read:
        if missing and tokens >= missing[0]:
            gc.collect()
            found.append((tokens, cache_bytes(cache), start_of_peak(model.device.type)))
            missing = [context for context in missing if context > tokens]
    return found


def _read_tokens(
    opt: OPTForCausalLM, sentences: Sequence[list[int]], contexts: Sequence[int]
) -> Iterator[tuple[int, DynamicCache]]:
    cache = DynamicCache(config=opt.config)
    flat = [opt.config.bos_token_id, *(i for sentence in sentences for i in sentence)]
    ids = torch.tensor([flat], device=opt.device)  # (1,1+L)
    cuts = sorted({*range(READ_AT_ONCE, len(flat), READ_AT_ONCE), *(1 + context for context in contexts)})
    for piece in ids.tensor_split(cuts, dim=1):
        if not piece.shape[1]:
            continue
        opt.model(piece, past_key_values=cache, use_cache=True)
        yield cache.get_seq_length() - 1, cache


def _read_sentences(sllm: SLLM, sentences: Sequence[list[int]]) -> Iterator[tuple[int, DynamicCache]]:
    padded = [vars(pad_sentences([[sentence]], sllm.config.pad_token_id)) for sentence in sentences]
    batches = [{key: value.to(sllm.device) for key, value in batch.items()} for batch in padded]
    state = sllm.prefill(**batches[0])
    tokens = len(sentences[0])
    yield tokens, cast(DynamicCache, state.past_key_values)
    for sentence, batch in zip(sentences[1:], batches[1:], strict=True):
        sllm.step(batch["input_ids"][0], batch["attention_mask"][0], state)
        tokens += len(sentence)
        yield tokens, cast(DynamicCache, state.past_key_values)


def _main(kind: str, dtype: str, device: str, *settings: str) -> list[Reading]:
    options, lengths, contexts = map(json.loads, settings)
    build = Build(**options)
    opt = build.opt()
    model = opt if kind == "OPT" else build.sllm(opt)
    del opt
    return growth(model.to(DTYPES[dtype]).to(device), lengths, contexts)  # type: ignore[arg-type]


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
