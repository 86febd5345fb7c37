"""The causality audit of an SLLM: replaced suffixes, gradients, and the step-by-step path that writes.

S sentences, T tokens of a sentence, D width.
"""

from collections.abc import Iterable
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbase.modeling.causality import CACHE_TOLERANCE, AuditReport, Scored, audit_changes, close, sampled_places
from lmbase.modeling.inference import inference_method
from lmbase.modeling.token_lm import DocumentNats
from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.text.told_ends import told_sentences
from lmbase.text.windows import Window, windows
from sentencevae.decoder import sentence_targets
from sllm.reading import AnyState, write_rows
from sllm.scoring import own_windows, score_plans
from sllm.sentences import TextNats
from sllm.sllm import SLLM

Sentences = list[list[int]]


@inference_method
def audit_sentences(model: SLLM, sentences: Sentences, opening: int | None = None) -> AuditReport:
    """Audit `model` on a text of S sentences of token ids: about 2 S forward passes, S backward, 1.5 S cached steps.

    Scores are audited as a whole text has them, and as windows have them that are scored together over one reading.

    Where a head draws the next sentence's vector there are no scores: what it draws and the flags are audited instead.

    Args: opening: sentences to audit at every place, those behind them by samples; default: all.
    """
    report = AuditReport()
    if not sentences:
        return report
    first = sentences[:opening]
    _audit_changes(model, first, range(len(first)), report)
    _audit_steps(model, first, sorted({0, len(first) // 2}), len(first), report)
    _audit_gradients(model, first, report)
    if len(sentences) > len(first):
        places = sampled_places(len(first), len(sentences))
        _audit_changes(model, sentences, places, report)
        _audit_steps(model, sentences, places, 1, report)
    _audit_surroundings(model, sentences, report)
    if model.config.told_ends and model.has_processor:
        _audit_told(model, sentences, report)
    return report


def _audit_told(model: SLLM, sentences: Sentences, report: AuditReport) -> None:
    """An end that costs nothing must follow from the tokens up to it, and nobody chooses which of them to take."""
    ids = [i for sentence in sentences for i in sentence]
    told = told_sentences(ids, model.processor.told_ends())
    ends = set(accumulate(map(len, told)))
    for k, end in enumerate(accumulate(map(len, sentences))):
        report.check(end in ends, f"the end of sentence {k + 1} is taken as told, and nothing tells it")
    report.check(len(told) <= len(sentences), f"{len(told)} ends are told, and the text has {len(sentences)} sentences")


def _audit_changes(model: SLLM, sentences: Sentences, places: Iterable[int], report: AuditReport) -> None:
    audit_changes(
        lambda text: _score(model, text),
        sentences,
        lambda k: sentences[:k] + _others(model, sentences[k:]),
        lambda k: sentences[:k] + [s[: max(1, len(s) // 2)] for s in _others(model, sentences[k:])],
        "sentence",
        report,
        places,
    )


def _audit_surroundings(model: SLLM, sentences: Sentences, report: AuditReport) -> None:
    """As evaluation scores them, sentences must not see the texts beside theirs, nor what stands before their window.

    All that is changed keeps its number of tokens, so scores must stay equal to the last bit.
    """
    if model.draws_vectors:
        pairs = [_drawn(model, [beside, sentences, beside], 1) for beside in (sentences, _others(model, sentences))]
        for k, (expected, found) in enumerate(zip(*(pair.scores for pair in pairs), strict=True)):
            same = torch.equal(expected, found)
            report.check(same, f"changing the texts beside it moved what is drawn for sentence {k + 1}")
        return
    size = max(2, len(sentences) // 2)
    others = _others(model, sentences)

    def score(text: Sentences, beside: Sentences) -> DocumentNats:
        return score_plans(model, [beside, text, beside], [0, 0, 0], [own_windows(model, size)])[0][1]

    before = score(sentences, sentences)
    changed = [(Window(0, len(sentences), 0), score(sentences, others), "the texts beside it")]
    for w in windows(len(sentences), size)[1:]:
        after = score(others[: w.start] + sentences[w.start :], sentences)
        changed.append((w, after, f"what stands before the window from sentence {w.start + 1} on"))
    for w, after, what in changed:
        for k in range(w.scored, w.stop):
            same = (before.token[k], before.stop[k + 1]) == (after.token[k], after.stop[k + 1])
            report.check(same, f"changing {what} moved the score of sentence {k + 1}")


def _score(model: SLLM, sentences: Sentences) -> Scored:
    """Each sentence's nats in the whole text, and behind them those in the window that scores it."""
    if model.draws_vectors:
        return _drawn(model, [sentences])
    nats = _nats(model, sentences)
    cap = model.config.max_sentence_tokens
    lengths = [min(len(sentence) + 1, cap) for sentence in sentences]
    scores = []
    for k, (length, (row, place)) in enumerate(zip(lengths, _scored_in(len(sentences)), strict=True)):
        parts = [nats.token[0, k, :length], nats.stop[0, k : k + 1]]
        parts += [nats.token[row, place, :length], nats.stop[row, place : place + 1]]
        scores.append(torch.cat(parts))
    return Scored(scores, model(**_batch(model, [sentences])).states[0])


def _drawn(model: SLLM, texts: list[Sentences], row: int = 0) -> Scored:
    """Of each sentence of a text the vector that is drawn for it, by one key for all, and the nats of the flag."""
    batch = _batch(model, texts)
    states = model.trunk_states(model.read(**batch), batch["sentence_mask"])[row]  # (S+1,D)
    return Scored(list(_draw(model, states)[:-1]), states)


def _draw(model: SLLM, states: Tensor) -> Tensor:
    """States (N, D) -> vectors and nats of the flag "the text goes on" (N, D+1)."""
    drawn = model.vector_head.sample(states, torch.zeros(len(states), dtype=torch.long, device=states.device))
    return torch.cat([drawn.float(), F.softplus(model.stop_head(states).float())], dim=1)


def _nats(model: SLLM, sentences: Sentences) -> TextNats:
    """Of one text: row 0 is the whole of it, the further rows are windows."""
    rows = [(0, 0, len(sentences))] + [(0, w.start, w.stop) for w in _windows(len(sentences))]
    continues = torch.tensor([stop < len(sentences) for _, _, stop in rows], device=model.device)
    batch = _batch(model, [sentences])
    return model.nats(**batch, continues=continues, windows=torch.tensor(rows, device=model.device))


def _batch(model: SLLM, texts: list[Sentences]) -> dict[str, Tensor]:
    """What `forward` takes."""
    return vars(pad_sentences(texts, model.config.pad_token_id).to(model.device))


def _windows(num_sentences: int) -> list[Window]:
    return windows(num_sentences, max(2, num_sentences // 2))


def _scored_in(num_sentences: int) -> list[tuple[int, int]]:
    """Row of `_nats` and place in it where a window scores each sentence."""
    return [(r, k - w.start) for r, w in enumerate(_windows(num_sentences), start=1) for k in range(w.scored, w.stop)]


def _others(model: SLLM, sentences: Sentences) -> Sentences:
    """Sentences of as many tokens each, others at each place."""
    size = model.config.vocab_size
    special = {model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id}
    ordinary = [i for i in range(min(size, 64)) if i not in special] or [0]
    return [[ordinary[(i + place + 1) % len(ordinary)] for place, i in enumerate(s)] for s in sentences]


def _audit_gradients(model: SLLM, sentences: Sentences, report: AuditReport) -> None:
    """The nats of sentence k must not depend on the vectors of sentence k and later ones at all."""
    vectors: list[Tensor] = []

    def keep(module, inputs) -> tuple[Tensor]:
        vectors.append(inputs[0].detach().requires_grad_())
        return (vectors[-1],)

    with torch.enable_grad():
        hook = model.vector_door.register_forward_pre_hook(keep)
        if model.draws_vectors:
            drawn = _drawn(model, [sentences]).scores
        else:
            nats = _nats(model, sentences)
        hook.remove()
        # Which sentence each vector is of: they are read once, or once for each window.
        numbers = torch.arange(len(sentences))
        if len(vectors[0]) > len(sentences):
            numbers = torch.cat([numbers, *(numbers[w.start : w.stop] for w in _windows(len(sentences)))])
        for k, (row, place) in enumerate(_scored_in(len(sentences))):
            if model.draws_vectors:
                score = drawn[k].sum()
            else:
                score = nats.token[0, k].sum() + nats.stop[0, k] + nats.token[row, place].sum() + nats.stop[row, place]
            (gradient,) = torch.autograd.grad(score, vectors[0], retain_graph=True, allow_unused=True)
            leaks = gradient is not None and bool(gradient[numbers >= k].any())
            report.check(not leaks, f"the score of sentence {k + 1} has a gradient into its own vector or a later one")


def _audit_steps(model: SLLM, sentences: Sentences, starts: Iterable[int], most: int, report: AuditReport) -> None:
    """Reading sentence by sentence with caches, as `generate` does, must give the scores of the parallel path: of at
    most so many sentences, after each of these beginnings of the text as a prompt."""
    parallel = _score(model, sentences).scores
    for first in starts:
        state = model.prefill(**_batch(model, [sentences[:first]]))
        for k in range(first, min(first + most, len(sentences))):
            ids, mask = (t.to(model.device) for t in pad_tokens([sentences[k]], model.config.pad_token_id))
            told = model.config.told_ends and k + 1 < len(sentences)
            stepped = _score_step(model, ids, mask, state, told)
            report.check(
                close(parallel[k][: len(stepped)], stepped, CACHE_TOLERANCE),
                f"sentence {k + 1} scores otherwise when the text is read step by step with caches",
            )
            model.step(ids, mask, state)


def _score_step(model: SLLM, ids: Tensor, mask: Tensor, state: AnyState, told: bool) -> Tensor:
    """Nats of one sentence (1, T) given what was read, token by token, and of the flag that it follows. Args: told: its
    end is, and costs nothing."""
    if model.draws_vectors:
        return _draw(model, state.states[:, -1])[0]
    cut = sentence_targets(ids, mask, model.config.autoencoder)
    written = model.start_sentence(state)
    hidden = []
    for t in range(int(cut.mask.sum())):
        states = write_rows(model, cut.inputs[:, t : t + 1], written)
        written.keep([[0]])
        hidden.append(model.finish(states))
    token = model.target_nats(torch.cat(hidden, dim=1)[0], cut.targets[cut.mask], cut.first[cut.mask])
    if told:
        token = token.masked_fill(cut.targets[cut.mask] == model.config.eos_token_id, 0.0)
    stop_logit = model.stop_head(state.states[:, -1]).squeeze(-1).float()  # (1,)
    return torch.cat([token, F.softplus(stop_logit)])  # -log p of "the text goes on"
