"""Exact, causal likelihood of texts under an SLLM: every token, end mark and flag, each once.

Windows overlap, and two ways of cutting windows see much of the same text. So a stretch of a text is encoded once for
all windows in it, and windows that begin alike are one: what follows a sentence does not move its score.

B texts or windows, S sentences, T tokens of a sentence.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from lmbase.modeling.inference import inference_method
from lmbase.modeling.token_lm import DocumentNats, Scores, matching_contexts
from lmbase.text.padding import pad_sentences
from lmbase.text.processor import SentenceProcessor
from lmbase.text.windows import Window, sentence_windows, windows
from sllm.modeling_sllm import SLLMModel

READ_TOKENS = 8192  # of text that is encoded at a time

Planner = Callable[[list[int]], list[Window]]  # tokens before each sentence (S+1,) -> windows in sentences


@dataclass
class _Job:
    """A text and the windows that score it."""

    sentences: list[list[int]]  # the context's first, if there is one
    num_bytes: int
    plans: list[list[Window]]  # one or more ways of cutting windows
    num_forced: int = 0  # tokens of the first scored sentence that the context holds
    goes_on: bool = False  # the text does, behind the last sentence
    is_open: bool = False  # the last sentence goes on, too: it has no end mark yet


@dataclass
class _Part:
    """A window, and what it gives to windows of plans that begin where it does."""

    start: int
    stop: int
    scored: int
    num_forced: int
    ends: bool  # holds the text's end
    open_at: int | None  # tokens of its last sentence, if that goes on
    takers: list[tuple[Window, DocumentNats, bool]] = field(default_factory=list)  # the bool: first of its plan


@dataclass
class _Stretch:
    """Sentences of a text that are read at once, for the windows in them."""

    sentences: list[list[int]]
    start: int  # number of its first sentence in the text
    parts: list[_Part]


def score_texts(
    model: SLLMModel,
    processor: SentenceProcessor,
    texts: str | Sequence[str],
    contexts: str | Sequence[str] | None,
) -> Scores:
    """`SLLM.score`. A context and its text are cut and tokenised as the one text that they are."""
    texts, contexts = matching_contexts(texts, contexts)
    jobs = []
    joined = processor.encode_batch([context + text for context, text in zip(contexts, texts, strict=True)])
    for context, text, whole in zip(contexts, texts, joined, strict=True):
        sentences = whole.sentences()
        num_known = processor.codec.num_tokens_of(context, whole.input_ids)
        ends = list(accumulate(map(len, sentences)))
        first = bisect_right(ends, num_known)  # the sentence that holds the text's first token
        over = first == len(sentences) and model.config.told_ends  # then the text's end has a mark to cost
        if first and ends[first - 1] == num_known and (over or processor.split_open_end(sentences[:first])[1]):
            first -= 1  # that its last sentence ends there is not known from the context
        forced = num_known - sum(map(len, sentences[:first]))
        plan = windows(len(sentences), model.config.max_sentences, first)
        jobs.append(_Job(sentences, len(text.encode()), [plan], forced))
    found = [of_plans[0] for of_plans in _score_jobs(model, jobs)]
    return Scores.of(found)


def score_sentences(
    model: SLLMModel,
    documents: Sequence[list[list[int]]],
    num_bytes: Sequence[int],
    *,
    window: int | None = None,
    plan: Planner | None = None,
) -> list[DocumentNats]:
    """-log p of documents given as sentences of token ids.

    A window's flags: state k belongs to the window that holds it, so each of a text's S+1 flags is scored once; at
    a window's edge the flag is "continue".

    Args:
        window: sentences of a window; default: the model's `max_sentences`.
        plan: windows of another shape (`equal_context`).
    """
    return score_plans(model, documents, num_bytes, [plan or own_windows(model, window)])[0]


def own_windows(model: SLLMModel, window: int | None = None) -> Planner:
    """Windows of so many sentences; default: the model's `max_sentences`."""
    size = model.config.max_sentences if window is None else window
    if size > model.config.most_sentences:
        positions = model.config.trunk.max_position_embeddings
        raise ValueError(
            f"window={size}: the trunk has {positions} positions, enough for {model.config.most_sentences} sentences."
        )
    return lambda before: windows(len(before) - 1, size)


def equal_context(token_window: int, max_sentences: int) -> Planner:
    """Windows in which no prediction sees earlier text than a token-level model's window of so many tokens does."""
    return lambda before: sentence_windows(before, windows(before[-1], token_window), max_sentences)


def score_plans(
    model: SLLMModel, documents: Sequence[list[list[int]]], num_bytes: Sequence[int], plans: Sequence[Planner]
) -> list[list[DocumentNats]]:
    """`score_sentences` for several ways of cutting windows at once, which costs less than one after another."""
    jobs = []
    for sentences, size_in_bytes in zip(documents, num_bytes, strict=True):
        before = list(accumulate((len(s) for s in sentences), initial=0))
        jobs.append(_Job(sentences, size_in_bytes, [plan(before) for plan in plans]))
    found = _score_jobs(model, jobs)
    _score_in_parts(model, jobs, found)
    return [[of_plans[i] for of_plans in found] for i in range(len(plans))]


def _score_in_parts(model: SLLMModel, jobs: list[_Job], results: list[list[DocumentNats]]) -> None:
    """Score again what plans want in parts, each as if a sentence began where the part does.

    How much of its sentence came before is not seen, so an end at the cap costs what any end does.
    """
    wanted = [
        (result, job.sentences[w.start], w, w.stop < len(job.sentences))
        for job, of_plans in zip(jobs, results, strict=True)
        for plan, result in zip(job.plans, of_plans, strict=True)
        for w in plan
        if w.parts
    ]
    parts = [
        _Job([tokens[p.start : p.stop]], 0, [[Window(0, 1, 0)]], p.scored - p.start, goes_on, p.stop < len(tokens))
        for _, tokens, w, goes_on in wanted
        for p in w.parts
    ]
    found = iter(_score_jobs(model, parts))
    for result, _, w, _ in wanted:
        of_parts = [next(found)[0] for _ in w.parts]
        result.token[w.start] = sum(part.token[0] for part in of_parts)
        result.stop[w.stop] = of_parts[-1].stop[1]


@inference_method
def _score_jobs(model: SLLMModel, jobs: list[_Job]) -> list[list[DocumentNats]]:
    """-log p of texts under each of their plans; what belongs to their contexts has zeros."""
    results, stretches = [], []
    for job in jobs:
        found = [_empty(job, plan) for plan in job.plans]
        results.append(found)
        stretches += _stretches(job, _parts(job, found))
    # Texts of like length together: the trunk's rows are as long as the longest.
    stretches.sort(key=lambda stretch: max(part.stop - part.start for part in stretch.parts))
    batch: list[_Stretch] = []
    num_tokens = 0
    for stretch in stretches:
        size = sum(map(len, stretch.sentences))
        if batch and num_tokens + size > READ_TOKENS:
            _score_batch(model, batch)
            batch, num_tokens = [], 0
        batch.append(stretch)
        num_tokens += size
    if batch:
        _score_batch(model, batch)
    return results


def _empty(job: _Job, plan: list[Window]) -> DocumentNats:
    """A document's nats before any is found."""
    num_tokens = sum(map(len, job.sentences[plan[0].scored if plan else 0 :])) - job.num_forced
    num_sentences = len(job.sentences)
    return DocumentNats([0.0] * num_sentences, [0.0] * (num_sentences + 1), num_tokens, job.num_bytes)


def _parts(job: _Job, results: list[DocumentNats]) -> list[_Part]:
    """All windows of a job in their order, those that begin alike as one."""
    found: dict[int, _Part] = {}
    for plan, result in zip(job.plans, results, strict=True):
        for w in plan:
            part = found.setdefault(w.start, _Part(w.start, w.stop, w.scored, job.num_forced, False, None))
            part.stop, part.scored = max(part.stop, w.stop), min(part.scored, w.scored)
            part.ends = part.stop == len(job.sentences) and not job.goes_on
            part.open_at = len(job.sentences[-1]) if job.is_open else None
            part.takers.append((w, result, w == plan[0]))
    return [found[start] for start in sorted(found)]


def _stretches(job: _Job, parts: list[_Part]) -> list[_Stretch]:
    """Stretches of at most READ_TOKENS, or of one window."""
    before = list(accumulate((len(s) for s in job.sentences), initial=0))
    groups: list[list[_Part]] = []
    for part in parts:
        if not groups or before[max(part.stop, groups[-1][-1].stop)] - before[groups[-1][0].start] > READ_TOKENS:
            groups.append([])
        groups[-1].append(part)
    return [
        _Stretch(job.sentences[group[0].start : max(part.stop for part in group)], group[0].start, group)
        for group in groups
    ]


def _score_batch(model: SLLMModel, stretches: list[_Stretch]) -> None:
    device = model.device
    batch = pad_sentences([stretch.sentences for stretch in stretches], model.config.pad_token_id).to(device)
    places = [
        (row, part.start - stretch.start, part.stop - stretch.start)
        for row, stretch in enumerate(stretches)
        for part in stretch.parts
    ]
    parts = [part for stretch in stretches for part in stretch.parts]
    wanted = torch.zeros(len(parts), max(1, *(part.stop - part.start for part in parts)), dtype=torch.bool)
    for row, part in zip(wanted, parts, strict=True):
        row[part.scored - part.start : part.stop - part.start] = True
    nats = model.nats(
        **vars(batch),
        continues=torch.tensor([not part.ends for part in parts], device=device),
        wanted=wanted.to(device),
        windows=torch.tensor(places, device=device),
    )
    token, stop = nats.token.cpu().double(), nats.stop.tolist()
    for row, part in zip(token, parts, strict=True):
        if part.num_forced and any(is_first for *_, is_first in part.takers):
            row[part.scored - part.start, : part.num_forced] = 0.0
        if part.open_at is not None:
            row[part.stop - part.start - 1, part.open_at :] = 0.0
    for token_row, stop_row, part in zip(token.sum(-1).tolist(), stop, parts, strict=True):
        for w, result, is_first in part.takers:
            # The flag at an inner border was scored by the window before; after an open context, that a sentence
            # begins here is known.
            first = w.scored + (not is_first or part.num_forced > 0)
            result.token[w.scored : w.stop] = token_row[w.scored - w.start : w.stop - w.start]
            result.stop[first : w.stop + 1] = stop_row[first - w.start : w.stop - w.start + 1]
