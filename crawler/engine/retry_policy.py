"""When to retry a failed repo, by the reason and number of its failures."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from provenance.schemas.enums import Reason, Source, Status
from provenance.schemas.records import EarlierFailure, Outcome

_CLOSED = (Reason.GATED, Reason.DISABLED)
_BROKEN = (Reason.MALFORMED, Reason.BAD_WEIGHTS, Reason.UNREADABLE)

CLOSED_FOR = timedelta(days=30)
FIRST_WAIT, LONGEST_WAIT = timedelta(hours=1), timedelta(days=7)


def next_attempt(reason: Reason | None, attempts: int, now: datetime) -> datetime | None:
    """When to retry a repo that failed for `reason`, for the `attempts`-th time in a row.

    A closed or missing repo is retried after 30 days. A failure of the network, of a server or of a stale listing is
    retried after 1 hour, then 2, 4, … up to a week. An unfinished repo is due at once.

    Returns:
        null for broken weights: only a new revision can fix them.
    """
    if reason in _BROKEN:
        return None
    if reason is Reason.UNFINISHED:
        return now
    if reason in (*_CLOSED, Reason.NO_REPO):
        return now + CLOSED_FOR
    return now + min(FIRST_WAIT * (1 << min(attempts - 1, 16)), LONGEST_WAIT)


def outlasts_revision(reason: Reason | None) -> bool:
    """Whether a failure remains under a new revision: the repo is closed, not broken."""
    return reason in _CLOSED


def is_due(failure: EarlierFailure, now: datetime) -> bool:
    """Whether it is time for the next attempt."""
    return failure.next_attempt_at is not None and failure.next_attempt_at <= now


def scheduled(outcome: Outcome, before: EarlierFailure | None, now: datetime) -> Outcome:
    """The outcome with the number of failed attempts in a row and the time of the next one.

    Args:
        outcome: of an attempt that has just ended.
        before: the previous attempt, if it failed.
    """
    if outcome.status is not Status.FAILED or outcome.source is not Source.HUB:
        return outcome
    attempts, revision = (before.attempts + 1, before.revision) if before else (1, None)
    return replace(
        outcome,
        revision=outcome.revision or revision,
        attempts=attempts,
        next_attempt_at=next_attempt(outcome.reason, attempts, now),
    )
