"""Places in texts, and what models of any kind draw there.

A place is the beginning of a sentence, and only one where the text before it says that a sentence begins: else a
sentence model would be told what a token-level model has to find out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from transformers import GenerationConfig

from lmbase.modeling.decoding import SampledByTransformers, Sampler
from lmbase.modeling.inference import inference
from lmbase.modeling.kept_window import KeptWriter
from lmbase.modeling.settings import check_number, neutral_settings
from lmbase.modeling.trunk import special_ids
from lmbase.text.padding import pad_sentences
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import tokenizer_hash
from sllm.evaluation.kept_window import KeptWindowLM
from sllm.evaluation.loaded import LoadedModel

ENDED = -1  # fills up what ends before it is as long as wanted


@dataclass
class Place:
    """Where a text is to be continued."""

    document: int
    before: list[list[int]]  # the latest sentences, as many as fit into the context
    after: list[int]  # what the text says, filled up behind its end


Seeds = list[tuple[int, int]]  # of each continuation its seed, and its number among those of that seed
Draw = Callable[[Sequence[Place], int, Seeds], list[list[int]]]


def find_places(
    processor: SentenceProcessor, documents: Sequence[list[list[int]]], num: int, context: int, length: int
) -> list[Place]:
    """At most `num` places, evenly spread over the documents (sentences of ids), with up to `context` tokens before
    and `length` after each.

    Raises:
        ValueError: no place where a sentence is known to begin.
    """
    open_ends = [(d, k) for d, sentences in enumerate(documents) for k in range(1, len(sentences))]
    # Evenly spread, more than are wanted: those whose text before may go on are passed over.
    step = max(1, len(open_ends) // (4 * num))
    found = [
        _place(d, documents[d], k, context, length)
        for d, k in open_ends[::step]
        if not processor.split_open_end(documents[d][max(0, k - 2) : k])[1]
    ]
    if not found:
        raise ValueError(
            "No place where the text before it says that a sentence begins: give longer texts, or a model whose rule "
            "closes sentences."
        )
    keep = min(num, len(found))
    return [found[i * len(found) // keep] for i in range(keep)]


def _place(number: int, sentences: list[list[int]], k: int, context: int, length: int) -> Place:
    sizes = list(accumulate(len(sentence) for sentence in reversed(sentences[:k])))
    fits = max(1, sum(size <= context for size in sizes))
    after = [i for sentence in sentences[k : k + length] for i in sentence][:length]
    return Place(number, sentences[k - fits : k], after + [ENDED] * (length - len(after)))


def copy_last(places: Sequence[Place], length: int, seeds: Seeds) -> list[list[int]]:
    """The baseline: the last sentence again, over and over."""
    return [(place.before[-1] * length)[:length] for place in places]


def sampler_of(loaded: LoadedModel, temperature: float) -> Draw:
    """What draws continuations: tokens at this temperature, or, where a head draws sentence vectors, these at this
    temperature, and of each vector the likeliest tokens.

    Raises:
        ValueError: a model that predicts no text, or a temperature that it cannot draw at.
    """
    if not loaded.predicts:
        raise ValueError(f"{loaded.name} is {loaded.shown}: it predicts no text, so there is nothing to sample.")
    draws_vectors = loaded.by_sentence and loaded.model.draws_vectors
    check_number("vector_temperature" if draws_vectors else "temperature", temperature)  # before others are judged
    tokens = {"do_sample": True, "temperature": temperature}
    if draws_vectors:
        return _by_sentence(loaded, {"do_sample": False, "vector_temperature": temperature})
    if loaded.by_sentence:
        return _by_sentence(loaded, tokens)
    return _by_heads(loaded, tokens) if loaded.num_heads else _by_token(loaded, tokens)


def _flat(places: Sequence[Place], opening: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What stands before places in rows of one width, padded on the left, and where it is real."""
    rows = [[opening, *(i for sentence in place.before for i in sentence)] for place in places]
    width = max(map(len, rows))
    mask = torch.arange(width) >= torch.tensor([width - len(row) for row in rows])[:, None]
    return torch.tensor([[pad] * (width - len(row)) + row for row in rows]), mask


def _by_heads(loaded: LoadedModel, settings: dict) -> Draw:
    model, config = loaded.model, loaded.model.config

    def draw(places: Sequence[Place], length: int, seeds: Seeds) -> list[list[int]]:
        ids, mask = (x.to(model.device) for x in _flat(places, config.bos_token_id, config.pad_token_id))
        output = model.generate(ids, mask, max_new_tokens=length, num_draft=1, seed=seeds, **settings)
        new = zip(output.sequences[:, ids.shape[1] :].tolist(), output.num_new_tokens, strict=True)
        return [_filled(row[:num], length) for row, num in new]

    return draw


def _by_sentence(loaded: LoadedModel, settings: dict) -> Draw:
    model = loaded.model

    def draw(places: Sequence[Place], length: int, seeds: Seeds) -> list[list[int]]:
        room = model.config.max_sentences
        batch = pad_sentences([place.before[-room:] for place in places], model.config.pad_token_id).to(model.device)
        how = dict(max_new_tokens=length, num_draft=1, seed=seeds, overflow="slide")
        output = model.generate(batch.input_ids, batch.attention_mask, **how, **settings)
        rows = (row[mask].tolist() for row, mask in zip(output.sequences, output.attention_mask, strict=True))
        return [_filled(row[len(row) - new :], length) for row, new in zip(rows, output.num_new_tokens, strict=True)]

    return draw


def _by_token(loaded: LoadedModel, settings: dict) -> Draw:
    lm, ids = loaded.model, special_ids(loaded.model.config)
    how: dict[str, Any] = neutral_settings(lm.generation_config)
    if isinstance(loaded, KeptWindowLM):
        how["custom_generate"] = KeptWriter(loaded.keep)

    def draw(places: Sequence[Place], length: int, seeds: Seeds) -> list[list[int]]:
        given, mask = _flat(places, ids.opening, ids.pad)
        width = given.shape[1]
        sampler = Sampler(GenerationConfig(**settings), lm.config.vocab_size, lm.device, seeds)
        with inference(lm):
            written = lm.generate(
                given.to(lm.device),
                attention_mask=mask.long().to(lm.device),
                max_new_tokens=length,
                do_sample=False,
                eos_token_id=ids.end,
                pad_token_id=ids.pad,
                logits_processor=[SampledByTransformers(sampler, width)],
                **how,
            )
        new = written[:, width:].tolist()
        return [_filled(row[: row.index(ids.end)] if ids.end in row else row, length) for row in new]

    return draw


def _filled(ids: list[int], length: int) -> list[int]:
    return ids + [ENDED] * (length - len(ids))


def check_tokenizers(models: Sequence[LoadedModel]) -> None:
    """Continuations are compared token by token.

    Raises:
        ValueError: two tokenizers.
    """
    for other in models[1:]:
        if tokenizer_hash(other.tokenizer) != tokenizer_hash(models[0].tokenizer):
            raise ValueError(
                f"{models[0].name} and {other.name} have different tokenizers, and BrierLM compares tokens: judge "
                "models of one tokenizer at a time."
            )
