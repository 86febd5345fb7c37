"""Exact, causal likelihood of texts under an SLLM: every token, end mark and flag, each once.

B windows, S sentences, T tokens of a sentence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from lmbase.collate import pad_sentences
from lmbase.modes import inference_method
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


@dataclass
class _Job:
    """A text and the windows that score it."""

    sentences: list[list[int]]  # the context's first, if there is one
    num_bytes: int
    windows: list[Window]
    num_forced: int = 0  # tokens of the first scored sentence that the context holds


def score_texts(model: "SLLM", texts: Sequence[str], contexts: Sequence[str] | None) -> Scores:
    """`SLLM.score`."""
    contexts = [""] * len(texts) if contexts is None else contexts
    if len(contexts) != len(texts):
        raise ValueError(f"{len(contexts)} contexts for {len(texts)} texts: give one for each, perhaps empty.")
    processor = model.processor
    jobs = []
    for context, text in zip(processor.encode_batch(contexts), processor.encode_batch(texts), strict=True):
        closed, forced = processor.split_open_end(context.sentences())
        sentences = text.sentences()
        if forced:  # the text's first sentence goes on with it
            sentences = processor.apply_cap(forced + (sentences[0] if sentences else [])) + sentences[1:]
        plan = windows(len(closed) + len(sentences), model.config.max_sentences, len(closed))
        jobs.append(_Job(closed + sentences, sum(text.sentence_bytes), plan, len(forced)))
    found = _score_jobs(model, jobs)
    return Scores([d.nats for d in found], [d.num_bytes for d in found], [d.num_tokens for d in found])


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
    jobs = []
    for sentences, size_in_bytes in zip(documents, num_bytes, strict=True):
        before = list(accumulate((len(s) for s in sentences), initial=0))
        jobs.append(_Job(sentences, size_in_bytes, plan(before)))
    return _score_jobs(model, jobs, batch_size)


@inference_method
def _score_jobs(model: "SLLM", jobs: list[_Job], batch_size: int = 8) -> list[DocumentNats]:
    """-log p of texts; what belongs to their contexts has zeros."""
    results, parts = [], []
    for job in jobs:
        first = job.windows[0].scored if job.windows else 0
        num_tokens = sum(map(len, job.sentences[first:])) - job.num_forced
        num_sentences = len(job.sentences)
        result = DocumentNats([0.0] * num_sentences, [0.0] * (num_sentences + 1), num_tokens, job.num_bytes)
        results.append(result)
        parts += [(job, window, result) for window in job.windows]
    parts.sort(key=lambda part: part[1].stop - part[1].start)
    for start in range(0, len(parts), batch_size):
        _score_batch(model, parts[start : start + batch_size])
    return results


def _score_batch(model: "SLLM", parts: list[tuple[_Job, Window, DocumentNats]]) -> None:
    batch = pad_sentences([job.sentences[w.start : w.stop] for job, w, _ in parts], model.config.pad_token_id)
    continues = torch.tensor([w.stop < len(job.sentences) for job, w, _ in parts])
    wanted = batch.sentence_mask.clone()
    for row, (_, w, _) in zip(wanted, parts, strict=True):
        row[: w.scored - w.start] = False
    device = model.device
    nats = model.nats(
        batch.input_ids.to(device),
        batch.attention_mask.to(device),
        batch.sentence_mask.to(device),
        continues.to(device),
        wanted.to(device),
    )
    token, stop = nats.token.cpu().double(), nats.stop.tolist()
    for (job, w, result), token_row, stop_row in zip(parts, token, stop, strict=True):
        first = w.scored
        if w != job.windows[0]:
            first += 1  # the flag at an inner border was scored by the window before
        elif job.num_forced:
            token_row[w.scored - w.start, : job.num_forced] = 0.0
            first += 1  # that a sentence begins here is known from the context
        result.token[w.scored : w.stop] = token_row[w.scored - w.start : w.stop - w.start].sum(-1).tolist()
        result.stop[first : w.stop + 1] = stop_row[first - w.start : w.stop - w.start + 1]
