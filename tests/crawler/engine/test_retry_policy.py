"""When a failed attempt is worth another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.engine.retry_policy import (
    CLOSED_FOR,
    LONGEST_WAIT,
    is_due,
    next_attempt,
    outlasts_revision,
    scheduled,
)
from provenance.schemas.enums import Reason, Source, Status
from provenance.schemas.records import EarlierFailure, Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(attempts=st.integers(1, 10_000))
def test_the_schedule(attempts: int) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    soon = next_attempt(Reason.NETWORK, attempts, at)
    assert soon is not None
    assert timedelta(hours=1) <= soon - at <= LONGEST_WAIT
    assert soon <= (next_attempt(Reason.NETWORK, attempts + 1, at) or at)
    assert next_attempt(Reason.MALFORMED, attempts, at) is None
    assert next_attempt(Reason.GATED, attempts, at) == at + CLOSED_FOR
    assert outlasts_revision(Reason.GATED)
    assert not outlasts_revision(Reason.NETWORK)


def test_a_failure_counts_on_from_the_one_before() -> None:
    failed = Outcome("org/name", None, Status.FAILED, reason=Reason.NETWORK, source=Source.HUB)
    first = scheduled(failed, None, NOW)
    assert (first.attempts, first.next_attempt_at) == (1, NOW + timedelta(hours=1))
    third = scheduled(failed, EarlierFailure("a" * 40, Reason.NETWORK, 2, NOW), NOW)
    assert (third.attempts, third.next_attempt_at) == (3, NOW + timedelta(hours=4))
    assert third.revision == "a" * 40  # what is not known now was known then


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("org/name", None, Status.DONE, source=Source.HUB),
        Outcome("org/name", None, Status.SKIPPED, reason=Reason.NO_WEIGHTS, source=Source.HUB),
        Outcome("org/name", None, Status.FAILED, reason=Reason.MALFORMED, source=Source.LOCAL),
    ],
)
def test_only_failures_of_a_hub_are_scheduled(outcome: Outcome) -> None:
    assert scheduled(outcome, EarlierFailure(None, Reason.NETWORK, 2, NOW), NOW) is outcome


@pytest.mark.parametrize(("again", "due"), [(None, False), (NOW, True), (NOW + timedelta(seconds=1), False)])
def test_a_failure_is_due_from_its_time_on(again: datetime | None, due: bool) -> None:
    assert is_due(EarlierFailure(None, Reason.NETWORK, 1, again), NOW) is due
