"""Causality audit: a likelihood is one only if no score can see the text that it scores, or any later text.

A model is audited through a function that scores a text unit by unit (a unit is a sentence or a token). For each k, or
for some k of a long text, the units from k on are replaced; every score of a unit before k must stay what it was: bit
for bit where the replacement has as many tokens, within 1e-5 of its size where shapes differ. That alone would miss a
model that sees the unit it scores and nothing beyond, so the scores must also be those of a reader who is given one
token after the other. And what stands beside a text in its batch, or before the window that is scored, must move
nothing either.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

Unit = TypeVar("Unit")
TOLERANCE = 1e-5  # nats, relative to scores above 1
CACHE_TOLERANCE = 1e-4  # the same between two orders of computing one score
SAMPLED_PLACES = 8  # of a long text beyond its opening


@dataclass
class Scored:
    """A text, scored."""

    scores: list[Tensor]  # one tensor of nats per unit
    states: Tensor | None = None  # (units + 1, D) states; state k scores unit k, and the last what follows the text


@dataclass
class AuditReport:
    """What an audit found."""

    num_checks: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.num_checks > 0 and not self.failures

    def check(self, holds: bool, failure: str) -> None:
        self.num_checks += 1
        if not holds:
            self.failures.append(failure)

    def raise_if_failed(self, name: str) -> None:
        """Raise ValueError naming the first pair (what was changed, which score moved), or if nothing was checked."""
        if not self.num_checks:
            raise ValueError(f"{name} could not be audited: the text to audit it on is empty. Give another text.")
        if self.failures:
            raise ValueError(
                f"{name} fails the causality audit, so its likelihood would mean nothing. First of "
                f"{len(self.failures)} findings in {self.num_checks} checks: {self.failures[0]}."
            )


def audit_changes(
    score: Callable[[list[Unit]], Scored],
    units: Sequence[Unit],
    replace_same: Callable[[int], list[Unit]],
    replace_other: Callable[[int], list[Unit]] | None,
    unit: str,
    report: AuditReport,
    places: Iterable[int] | None = None,
) -> None:
    """Replace units k.. of a text for every k, and compare all that must not move.

    Args:
        score: scores a text given as units.
        replace_same: k -> the text with other units from k on, of as many tokens each.
        replace_other: the same with other numbers of tokens; None where units are tokens.
        unit: what a unit is called in findings.
        places: the k to try; default: all.

    Raises:
        ValueError: a score is no number.
    """
    before = score(list(units))
    for i, scores in enumerate(before.scores):
        if not scores.isfinite().all():
            raise ValueError(
                f"{unit} {i + 1} of the text costs {scores.sum().item()} nats, which is no number to audit: the "
                "model's weights hold NaN or infinity, or its training diverged; look for an earlier checkpoint."
            )
    for k in range(len(units)) if places is None else places:
        _compare(before, score(replace_same(k)), k, True, unit, report)
        if replace_other is not None:
            _compare(before, score(replace_other(k)), k, False, unit, report)


def _compare(before: Scored, after: Scored, k: int, exact: bool, unit: str, report: AuditReport) -> None:
    for i in range(k):
        report.check(
            _unchanged(before.scores[i], after.scores[i], exact),
            f"changing {unit} {k + 1} and what follows moved the score of {unit} {i + 1}",
        )
    if before.states is not None and after.states is not None:
        for i in range(k + 1):
            report.check(
                _close_state(before.states[i], after.states[i], exact),
                f"changing {unit} {k + 1} and what follows moved the state that scores {unit} {i + 1}",
            )


def sampled_places(first: int, stop: int) -> list[int]:
    """Some of the places [first, stop), the same ones each time."""
    return sorted(random.Random(stop).sample(range(first, stop), min(SAMPLED_PLACES, max(0, stop - first))))


def _unchanged(a: Tensor, b: Tensor, exact: bool) -> bool:
    return torch.equal(a, b) if exact else close(a, b, TOLERANCE)


def close(expected: Tensor, found: Tensor, tolerance: float) -> bool:
    """Whether scores differ by at most `tolerance`, relative to those above 1 nat; never where one is no number."""
    return bool(((expected - found).abs() <= tolerance * expected.abs().clamp(min=1.0)).all())


def _close_state(a: Tensor, b: Tensor, exact: bool) -> bool:
    return torch.equal(a, b) if exact else bool((a - b).norm() <= TOLERANCE * a.norm().clamp(min=1.0))


def audit_tokens(
    score: Callable[[list[int]], Tensor],
    score_steps: Callable[[list[int]], Tensor],
    ids: list[int],
    vocab_size: int,
    opening: int | None = None,
) -> AuditReport:
    """Audit a token-level model.

    Args:
        score: ids (L,) -> nats of each token (L,), all at once.
        score_steps: the same as generation would find them, each token scored before the model is given it.
        ids: a text.
        vocab_size: replacements are drawn from the ids of the text, shifted within the vocabulary.
        opening: tokens to audit at every place; those behind them are audited at some. Default: all.
    """
    report = AuditReport()

    def changes(of: list[int], places: Iterable[int]) -> None:
        def other(k: int) -> list[int]:
            return of[:k] + other_ids(of[k:], vocab_size)

        audit_changes(lambda text: Scored(list(score(text))), of, other, None, "token", report, places)

    first = ids[:opening]
    changes(first, range(len(first)))
    if len(ids) > len(first):
        changes(ids, sampled_places(len(first), len(ids)))
    for i, (expected, stepped) in enumerate(zip(score(first), score_steps(first), strict=True)):
        report.check(
            close(expected, stepped, CACHE_TOLERANCE),
            f"token {i + 1} scores otherwise when the text is read step by step with a cache",
        )
    return report


def other_ids(ids: list[int], vocab_size: int) -> list[int]:
    """As many ids, others at each place, none below 4."""
    return [4 + (i + 1 + place) % (vocab_size - 4) for place, i in enumerate(ids)]
