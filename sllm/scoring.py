"""Exact, causal likelihood of texts under an SLLM: every token, end mark and flag, each once.

B windows, S sentences, T tokens of a sentence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from lmbase.collate import pad_sentences
from lmbase.opt import DocumentNats
from lmbase.windows import Window, windows

if TYPE_CHECKING:
    from sllm.modeling_sllm import SLLM

Planner = Callable[[list[int]], list[Window]]  # tokens before each sentence (S+1,) -> windows in sentences


@dataclass
class Scores:
    """What texts cost, one entry per text: nats (natural log), UTF-8 bytes, tokens of the model's own tokenizer."""

    nats: list[float]
    bytes: list[int]
    tokens: list[int]


def score_texts(model: "SLLM", texts: Sequence[str], contexts: Sequence[str] | None) -> Scores:
    """`SLLM.score`."""
    encoded = model.processor.encode_batch(texts)
    sizes = [sum(e.sentence_bytes) for e in encoded]
    if contexts is None:
        found = score_sentences(model, [e.sentences() for e in encoded], sizes)
    else:
        if len(contexts) != len(texts):
            raise ValueError(f"{len(contexts)} contexts for {len(texts)} texts: give one for each, perhaps empty.")
        before = [e.sentences() for e in model.processor.encode_batch(contexts)]
        found = [
            score_continuation(model, *model.processor.split_open_end(context), e.sentences(), size)
            for context, e, size in zip(before, encoded, sizes, strict=True)
        ]
    return Scores([d.nats for d in found], [d.num_bytes for d in found], [d.num_tokens for d in found])


@torch.no_grad()
def score_sentences(
    model: "SLLM",
    documents: Sequence[list[list[int]]],
    num_bytes: Sequence[int],
    *,
    window: int | None = None,
    plan: Planner | None = None,
    batch_size: int = 8,
) -> list[DocumentNats]:
    """-log p of documents given as sentences of token ids.

    A window's flags: state k belongs to the window that holds it, so each of a text's S+1 flags is scored once; at
    a window's edge the flag is "continue".

    Args:
        window: sentences of a window; default: the model's `max_sentences`.
        plan: windows of another shape (`lmbase.windows.sentence_windows` for equal context).
    """
    size = model.config.max_sentences if window is None else window
    if size + 1 > model.config.trunk.max_position_embeddings:
        raise ValueError(f"window={size}: the trunk has {model.config.trunk.max_position_embeddings} positions.")
    plan = plan or (lambda before: windows(len(before) - 1, size))
    results, jobs = [], []
    for d, (sentences, size_in_bytes) in enumerate(zip(documents, num_bytes, strict=True)):
        before = list(accumulate((len(s) for s in sentences), initial=0))
        results.append(DocumentNats([0.0] * len(sentences), [0.0] * (len(sentences) + 1), before[-1], size_in_bytes))
        jobs += [(d, w) for w in plan(before)]
    jobs.sort(key=lambda job: job[1].stop - job[1].start)
    training = model.training
    model.eval()
    for start in range(0, len(jobs), batch_size):
        _score_batch(model, documents, jobs[start : start + batch_size], results)
    model.train(training)
    return results


def _score_batch(model: "SLLM", documents: Sequence[list[list[int]]], jobs: list, results: list[DocumentNats]) -> None:
    batch = pad_sentences([documents[d][w.start : w.stop] for d, w in jobs], model.config.pad_token_id)
    continues = torch.tensor([w.stop < len(documents[d]) for d, w in jobs])
    device = model.device
    nats = model.nats(
        batch.input_ids.to(device),
        batch.attention_mask.to(device),
        batch.sentence_mask.to(device),
        continues.to(device),
    )
    token, stop = nats.token.double().sum(-1).tolist(), nats.stop.tolist()
    for (d, w), token_row, stop_row in zip(jobs, token, stop, strict=True):
        results[d].token[w.scored : w.stop] = token_row[w.scored - w.start : w.stop - w.start]
        first = w.scored + 1 if w.scored else 0  # the flag at an inner border was scored by the window before
        results[d].stop[first : w.stop + 1] = stop_row[first - w.start : w.stop - w.start + 1]


@torch.no_grad()
def score_continuation(
    model: "SLLM", closed: list[list[int]], forced: list[int], text: list[list[int]], num_bytes: int
) -> DocumentNats:
    """-log p of a text after a context, in one window that ends with the text.

    Args:
        closed, forced: the context's finished sentences, and the tokens of its unfinished one, which are forced as the
            beginning of the text's first sentence (`SentenceProcessor.split_open_end`).
        text: sentences of token ids.
    """
    cap, positions = model.config.max_sentence_tokens, model.config.trunk.max_position_embeddings
    num_tokens = sum(map(len, text))
    if forced and text:
        first = forced + text[0]
        text = [first[i : i + cap] for i in range(0, len(first), cap)] + text[1:]
    elif forced:
        text = [forced]
    room = positions - 1 - len(text)
    if room < 0:
        raise ValueError(
            f"The text has {len(text)} sentences and the trunk {positions} positions; score it without contexts."
        )
    closed = closed[max(0, len(closed) - room) :] if room else []
    batch = pad_sentences([closed + text], model.config.pad_token_id)
    device = model.device
    training = model.training
    model.eval()
    nats = model.nats(batch.input_ids.to(device), batch.attention_mask.to(device), batch.sentence_mask.to(device))
    model.train(training)
    token = nats.token[0, len(closed) : len(closed) + len(text)].double()
    if forced:
        token[0, : len(forced)] = 0.0
    stop = nats.stop[0, len(closed) : len(closed) + len(text) + 1].clone()
    if forced:
        stop[0] = 0.0  # that a sentence begins here is known from the context
    return DocumentNats(token.sum(-1).tolist(), stop.tolist(), num_tokens, num_bytes)
