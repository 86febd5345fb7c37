"""What a reader wants to see beside the figures of a table, of bounded size: where in a text bits go, what a token
costs, how rules cut, which drafts come true, how sentence vectors lie.

N sentences, D width.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, takewhile
from typing import Any

import numpy as np
import torch

from lmbase.text import RULES
from lmbase.text.padding import pad_tokens
from lmbase.text.processor import SentenceProcessor
from lmbase.text.segmentation import LEARNED
from lmbase.text.streaming import written_text
from lmbase.text.tokenizers import encode_text, tokenizer_hash
from multitoken.speculation import SpeculationStatistics
from sllm.evaluation.costs import Sentences
from sllm.evaluation.loaded import LoadedModel, Writing

MOST_CHARACTERS = 2**18  # of text that is looked at
MOST_TOKENS = 2**15  # that are scored a second time, one by one
MOST_PLACES = 64  # in a sentence, or in a text, that have a figure of their own
NUM_VECTORS = 200
SHOWN_CHARACTERS = 160  # of a sentence
NUM_PROMPTS = 8


def find_details(
    models: Sequence[LoadedModel], texts: Sequence[str], prompts: Sequence[str], prompt_tokens: int, new_tokens: int
) -> dict[str, Any]:
    """All that can be said of these models, in plain numbers and texts; what needs a model that cuts sentences is left
    out without one.

    Args:
        prompts: texts whose openings are continued with drafts.
    """
    beginning = [*_beginning(texts)]
    found: dict[str, Any] = {"drafts": dict(_drafts(models, prompts, prompt_tokens, new_tokens))}
    encoder = max((m for m in models if m.autoencoder is not None), key=lambda m: m.predicts, default=None)
    if encoder is not None:
        processor = encoder.model.processor
        documents = [encoded.sentences() for encoded in processor.encode_batch(beginning)]
        found["cost"] = dict(_costs(models, documents, encoder))
        found["places"] = _places(models, documents, processor)
        with warnings.catch_warnings():  # that this text was not looked through for abbreviations matters little here
            warnings.filterwarnings("ignore", "rule 'sentence' found no Punkt")
            lengths = lengths_by_rule(beginning, processor)
        found["tokens_per_sentence"] = {rule: np.bincount(of_rule).tolist() for rule, of_rule in lengths.items()}
        found["vectors"] = _vectors(encoder, [s for sentences in documents for s in sentences])
    return {name: part for name, part in found.items() if part}


def lengths_by_rule(texts: Sequence[str], processor: SentenceProcessor) -> dict[str, list[int]]:
    """Tokens of each sentence when the texts are cut by each rule, with this processor's tokenizer, cap and Punkt; by
    `learned` where it is the processor's."""
    found = {}
    for rule in RULES:
        if rule == LEARNED != processor.rule:
            continue  # of what was never learned there is nothing to see
        learned = processor.punkt if rule == processor.rule else None  # what one rule learned is nothing to another
        cut = SentenceProcessor(processor.tokenizer, rule, processor.max_sentence_tokens, learned)
        found[rule] = [length for text in texts for length in cut.encode(text).sentence_lengths]
    return found


def _beginning(texts: Sequence[str]) -> Iterator[str]:
    """The first texts, and of each so much that at least eight fit."""
    left = MOST_CHARACTERS
    for text in texts:
        if left <= 0:
            return
        yield text[: min(left, MOST_CHARACTERS // 8)]
        left -= len(text)


def _costs(
    models: Sequence[LoadedModel], documents: Sequence[Sentences], encoder: LoadedModel
) -> Iterator[tuple[str, dict[str, float]]]:
    """FLOPs of each part of a model, per token of text; one with other tokens than the encoder is left out."""
    num_tokens = sum(len(sentence) for sentences in documents for sentence in sentences)
    for loaded in (m for m in models if m.counts_like(encoder)):
        parts = loaded.flops_by_part(num_tokens, sum(map(len, documents)))
        if parts:
            yield loaded.name, {part: flops / num_tokens for part, flops in parts.items() if flops}


def _places(
    models: Sequence[LoadedModel], documents: Sequence[Sentences], processor: SentenceProcessor
) -> dict[str, dict[str, list]]:
    """[nats, bytes] at each place in a sentence, and in each sentence of a text, by model. Every model reads the same
    tokens, the opening of each text that all windows hold; one with another tokenizer is left out."""
    scored = [m for m in models if m.predicts and tokenizer_hash(m.tokenizer) == processor.tokenizer_hash]
    room = min((m.window for m in scored if not m.by_sentence), default=MOST_TOKENS)
    most = min((m.model.config.max_sentences for m in scored if m.by_sentence), default=MOST_PLACES)
    openings = [o for sentences in documents if (o := _opening(sentences[: min(most, MOST_PLACES)], room))]
    sizes = accumulate(sum(map(len, opening)) for opening in openings)
    openings = [o for o, _ in takewhile(lambda entry: entry[1] <= MOST_TOKENS, zip(openings, sizes, strict=True))]
    if not (scored and openings):
        return {}
    found: dict[str, dict[str, list]] = {"in_sentence": {}, "in_text": {}}
    for loaded in scored:
        in_sentence, in_text = np.zeros((MOST_PLACES, 2)), np.zeros((MOST_PLACES, 2))
        for opening in openings:
            for number, (ids, nats) in enumerate(zip(opening, loaded.costs(opening), strict=False)):
                both = np.stack([nats, processor.codec.sizes[ids]], axis=1)  # (tokens, 2)
                in_text[number] += both.sum(0)
                in_sentence[: len(both)] += both[:MOST_PLACES]
        for name, sums in (("in_sentence", in_sentence), ("in_text", in_text)):
            found[name][loaded.name] = sums[: int(np.flatnonzero(sums[:, 1])[-1]) + 1].tolist()
    return found


def _opening(sentences: Sentences, room: int) -> Sentences:
    """Whole sentences of at most so many tokens."""
    ends = accumulate(map(len, sentences))
    return [s for s, _ in takewhile(lambda entry: entry[1] <= room, zip(sentences, ends, strict=True))]


@torch.no_grad()
def _vectors(loaded: LoadedModel, sentences: Sentences) -> dict[str, Any]:
    """Vectors of sentences spread over all, each as [x, y, tokens, text] in the plane in which they differ most."""
    model, processor = loaded.autoencoder, loaded.model.processor
    if model is None or len(sentences) < 3:
        return {}
    rows = [sentences[i] for i in np.unique(np.linspace(0, len(sentences) - 1, NUM_VECTORS).astype(int))]
    ids, mask = (t.to(model.device) for t in pad_tokens(rows, processor.pad_token_id))
    vectors = model.encode(ids, mask).double().cpu().numpy()  # (N, D)
    left, scale, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    plane, total = (left * scale)[:, :2], float((scale**2).sum())
    points = [
        [round(float(x), 4), round(float(y), 4), len(row), processor.decode(row)[:SHOWN_CHARACTERS]]
        for (x, y), row in zip(plane, rows, strict=True)
    ]
    return {"model": loaded.name, "share": float((scale[:2] ** 2).sum()) / (total or 1.0), "points": points}


def _drafts(
    models: Iterable[LoadedModel], texts: Sequence[str], prompt_tokens: int, new_tokens: int
) -> Iterator[tuple[str, dict[str, list[int]]]]:
    """How often each place of a draft was offered, all before it being right, and accepted, in greedy writing."""
    for loaded in models:
        if loaded.most_drafts < 2 or not new_tokens:
            continue
        found = SpeculationStatistics()
        how = Writing(new_tokens, num_draft=loaded.most_drafts, settings=dict(do_sample=False))
        for text in texts[:NUM_PROMPTS]:
            ids = encode_text(loaded.tokenizer, text)[:prompt_tokens]
            written = loaded.write(written_text(loaded.tokenizer, ids), how)
            if written.drafts is not None:
                found.include(written.drafts)
        if found.offered:
            yield loaded.name, {"offered": found.offered, "accepted": found.accepted}
