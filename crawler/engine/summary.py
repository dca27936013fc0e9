"""The results of a crawl, counted while it runs and reported at its end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from provenance.schemas.enums import Status
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

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
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

    def leave_out(self, fingerprints: int) -> None:
        """Move a number of checkpoints from fingerprinted to skipped."""
        self.fingerprinted -= fingerprints
        self.skipped += fingerprints

    def summary(self, run_id: str, seconds: float) -> CrawlSummary:
        """The current counts."""
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "failures"}
        return CrawlSummary(run_id=run_id, seconds=seconds, failures=tuple(self.failures), **counts)
