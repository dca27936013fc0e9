"""The results of a crawl, counted while it runs and reported at its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from provenance.schemas.enums import Reason, Status
from provenance.schemas.records import Outcome

_KEPT_FAILURES = 100


@dataclass(frozen=True, slots=True)
class CrawlSummary:
    """The results of a crawl.

    Attributes:
        run_id: the key of its rows in the tables `runs` and `outcomes`.
        listed: number of local checkpoints and hub repos considered.
        fingerprinted: number of checkpoints new in the store.
        skipped: number of known or empty ones.
        failed: number of those that could not be read.
        bytes_read: bytes of files.
        requests: reads of files.
        seconds: wall time.
        stopped: why it ended early, null if it did not.
        broke_off: it ended early because the listing failed, not because it was stopped.
        failures: the first hundred failed outcomes.
        reasons: for `skipped` and `failed`, how many by reason, the most frequent first.
        failed_sources: sources as the user gave them of which something failed, and nothing is in the store.
    """

    run_id: str
    listed: int
    fingerprinted: int
    skipped: int
    failed: int
    bytes_read: int
    requests: int
    seconds: float
    stopped: str | None
    broke_off: bool
    failures: tuple[Outcome, ...]
    reasons: Mapping[str, Mapping[str, int]]
    failed_sources: tuple[str, ...]

    @property
    def successful(self) -> bool:
        """Whether the listing was read as far as wanted, no given source failed, and not everything failed."""
        everything_failed = self.failed > 0 and not self.fingerprinted and not self.skipped
        return not (self.broke_off or self.failed_sources or everything_failed)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values; `failures` as objects with the columns of `outcomes`."""
        return {**asdict(self), "failures": [asdict(outcome) for outcome in self.failures]}


@dataclass(slots=True)
class Tally:
    """The counts of a running crawl, with the meanings of `CrawlSummary`."""

    listed: int = 0
    fingerprinted: int = 0
    skipped: int = 0
    failed: int = 0
    bytes_read: int = 0
    requests: int = 0
    stopped: str | None = None
    broke_off: bool = False
    failures: list[Outcome] = field(default_factory=list)
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failed_sources: dict[str, None] = field(default_factory=dict)
    stored_sources: set[str] = field(default_factory=set)

    def add(self, outcome: Outcome, source: str | None = None) -> None:
        """Count an outcome; `source` is the one given by the user that it belongs to."""
        if outcome.status is not Status.DONE:
            self.reasons[outcome.status][outcome.reason or Reason.UNEXPECTED] += 1
        if source is not None:
            if outcome.status is Status.FAILED:
                self.failed_sources[source] = None
            elif outcome.status is Status.DONE or outcome.reason is Reason.KNOWN:
                self.stored_sources.add(source)
        if outcome.status is Status.DONE:
            self.fingerprinted += 1
        elif outcome.status is Status.SKIPPED:
            self.skipped += 1
        else:
            self.failed += 1
            if len(self.failures) < _KEPT_FAILURES:
                self.failures.append(outcome)
        self.bytes_read += outcome.bytes_read
        self.requests += outcome.requests

    def pass_over(self, repos: int) -> None:
        """Count listed repos without a visit: known, forgotten, or failed and not due again."""
        self.listed += repos
        self.skipped += repos
        self.reasons[Status.SKIPPED]["passed over"] += repos

    def leave_out(self, fingerprints: int) -> None:
        """Move a number of checkpoints from fingerprinted to skipped: forgotten while they were read."""
        self.fingerprinted -= fingerprints
        self.skipped += fingerprints
        if fingerprints:
            self.reasons[Status.SKIPPED]["forgotten"] += fingerprints

    def summary(self, run_id: str, seconds: float) -> CrawlSummary:
        """The current counts."""
        return CrawlSummary(
            run_id=run_id,
            listed=self.listed,
            fingerprinted=self.fingerprinted,
            skipped=self.skipped,
            failed=self.failed,
            bytes_read=self.bytes_read,
            requests=self.requests,
            seconds=seconds,
            stopped=self.stopped,
            broke_off=self.broke_off,
            failures=tuple(self.failures),
            reasons={status: dict(self.reasons[status].most_common()) for status in sorted(self.reasons, reverse=True)},
            failed_sources=tuple(source for source in self.failed_sources if source not in self.stored_sources),
        )
