"""The audit passes a scorer that looks back, and names what one that looks ahead has seen."""

import pytest
import torch

from lmbase.modeling.causality import AuditReport, Scored, audit_changes, audit_tokens, close

IDS = [10, 11, 12, 13]


def scorer(reach):
    """Token t costs what the tokens up to t + reach add up to; -1 is the last one before it."""

    def score(ids):
        total = torch.tensor([0.0, *ids]).cumsum(0)
        return total[[min(t + 1 + reach, len(ids)) for t in range(len(ids))]]

    return score


def steps(reach):
    """The same, given one token after the other."""
    return lambda ids: torch.stack([scorer(reach)(ids[: t + 1])[t] for t in range(len(ids))])


def test_what_looks_back_passes():
    report = audit_tokens(scorer(-1), steps(-1), IDS, 100)
    report.raise_if_failed("it")
    assert report.num_checks == (0 + 1 + 2 + 3) + 4


def test_what_sees_the_next_token_is_named():
    report = audit_tokens(scorer(1), scorer(1), IDS, 100)
    with pytest.raises(ValueError, match="changing token 2 and what follows moved the score of token 1"):
        report.raise_if_failed("it")


def test_what_sees_the_token_that_it_scores_is_found_by_a_reader_who_does_not():
    """Nothing before a changed token moves: only the path that generates shows it."""
    report = audit_tokens(scorer(0), steps(-1), IDS, 100)
    assert len(report.failures) == len(IDS)
    assert all("step by step with a cache" in failure for failure in report.failures)


def test_a_state_that_moves_is_named_although_no_score_does():
    def score(units):
        return Scored(
            [torch.zeros(1)] * len(units), torch.tensor([[sum(units[: k + 1])] for k in range(len(units) + 1)])
        )

    report = AuditReport()
    audit_changes(score, [1.0, 2.0], lambda k: [1.0, 2.0][:k] + [5.0] * (2 - k), None, "sentence", report)
    assert "moved the state that scores sentence 1" in report.failures[0]


def test_nothing_checked_is_no_pass_and_no_number_is_close_to_none():
    report = audit_tokens(scorer(-1), scorer(-1), [], 100)
    assert not report.passed
    with pytest.raises(ValueError, match="could not be audited: the text to audit it on is empty"):
        report.raise_if_failed("it")
    nothing = torch.tensor([torch.nan])
    assert not close(nothing, nothing, 1.0)
    assert close(torch.tensor([1000.0]), torch.tensor([1000.005]), 1e-5)
    assert not close(torch.tensor([1.0]), torch.tensor([1.005]), 1e-5)
