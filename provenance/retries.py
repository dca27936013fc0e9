"""When a failed visit is worth another: by what went wrong, and how often it did."""

from __future__ import annotations

from datetime import datetime, timedelta

_CLOSED = ("gated", "disabled")
_BROKEN = ("malformed", "bad-weights", "unreadable")

CLOSED_FOR = timedelta(days=30)
FIRST_WAIT, LONGEST_WAIT = timedelta(hours=1), timedelta(days=7)


def next_attempt(reason: str | None, attempts: int, now: datetime) -> datetime | None:
    """When to visit a repo again that failed for `reason`, for the `attempts`-th time in a row.

    A repo that is closed or gone is asked for again after a month. What the network, a server or a stale listing caused
    is tried after an hour, then two, four, … up to a week.

    Returns:
        null for weights that are broken: only a new revision can mend them.
    """
    if reason in _BROKEN:
        return None
    if reason in (*_CLOSED, "no-repo"):
        return now + CLOSED_FOR
    return now + min(FIRST_WAIT * (1 << min(attempts - 1, 16)), LONGEST_WAIT)


def outlasts_revision(reason: str | None) -> bool:
    """Whether a new revision of the repo changes nothing: it is closed, not broken."""
    return reason in _CLOSED
