"""What a crawl found, on its way into the store: commits, and the row of the run."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from provenance.indexer.store.rows import fingerprint_rows
from provenance.indexer.store.store import Store
from provenance.ledger import Ledger
from provenance.schemas import tables
from provenance.schemas.records import Fingerprint, Outcome
from provenance.settings import CrawlOptions
from provenance.sources import Visit
from provenance.visiting import Visited, storable
from provenance.walk import Walk

if TYPE_CHECKING:
    from provenance.crawler.hub.transport import HubTransport

COMMIT_EVERY = 64
"""Fingerprints in one commit."""
COMMIT_OUTCOMES = 20_000
COMMIT_SECONDS = 10.0
COMPACT_EVERY = 256
"""Commits after which the small parts that they left are merged: everything that reads the store opens each of them."""

_KEPT_FAILURES = 100


@dataclass(slots=True)
class RunSummary:
    """What a crawl did; `failures` are the first hundred.

    `stopped` says why it ended early, if it did, `broke_off` whether that was the listing's fault and nobody's wish.
    """

    run_id: str
    listed: int = 0
    fingerprinted: int = 0
    skipped: int = 0
    failed: int = 0
    bytes_read: int = 0
    requests: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    broke_off: bool = False
    failures: list[Outcome] = field(default_factory=list)


class Journal:
    """Outcomes and fingerprints of one crawl that wait for the next commit.

    Attributes:
        summary: what was found so far.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        options: CrawlOptions,
        sources: Iterable[str],
        transport: HubTransport | None,
        walk: Walk | None,
    ) -> None:
        self._store, self._ledger, self._options = store, ledger, options
        self._transport, self._walk = transport, walk
        self._started = datetime.now(UTC)
        self.summary = RunSummary(f"{self._started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}")
        self._sources = [storable(source) for source in sources]
        self._buffer: list[Fingerprint] = []
        self._outcomes: list[Outcome] = []
        self._listed: set[str] = set()
        self._committed, self._commits = time.monotonic(), 0

    def take(self, visit: Visit, visited: Sequence[Visited]) -> list[Outcome]:
        """Take all that one visit found: it is committed together, so that a repo is known whole or not at all.

        Returns:
            the outcomes, as they will be stored.
        """
        if not visited:
            return []
        kept = [self._keep(self._ledger.schedule(outcome), result) for outcome, result in visited]
        names = {outcome.repo_id for outcome in kept}
        if visit.listed:
            self._listed |= names
        if visit.hub and visit.repo_id not in names:
            # Else a failure under the old name would be due for ever.
            message = f"{visit.repo_id}: is called {', '.join(sorted(names))} now"
            self._outcomes.append(
                Outcome(visit.repo_id, None, "skipped", stage="plan", reason="renamed", message=message, source="hub")
            )
        self.commit_if_due()
        return kept

    def _keep(self, outcome: Outcome, result: Fingerprint | None) -> Outcome:
        summary = self.summary
        if result is not None:
            row = result.checkpoint
            if self._ledger.has(row.checkpoint_id, row.mode):
                # Only reading it told the revision, or another source of this run held the same.
                message = f"{outcome.repo_id}: already stored, unchanged"
                outcome = replace(outcome, status="skipped", stage="store", reason="known", message=message)
            else:
                self._ledger.note_fingerprint(row.checkpoint_id, row.mode)
                self._buffer.append(result)
                summary.fingerprinted += 1
        if outcome.status == "failed":
            summary.failed += 1
            if len(summary.failures) < _KEPT_FAILURES:
                summary.failures.append(outcome)
        elif outcome.status == "skipped":
            summary.skipped += 1
        summary.bytes_read += outcome.bytes_read
        summary.requests += outcome.requests
        self._outcomes.append(outcome)
        return outcome

    def commit_if_due(self) -> None:
        """Commit when enough waits, or for long enough."""
        waited = time.monotonic() - self._committed
        if (
            len(self._buffer) >= COMMIT_EVERY
            or len(self._outcomes) >= COMMIT_OUTCOMES
            or (waited > COMMIT_SECONDS and (self._buffer or self._outcomes))
        ):
            self.commit()

    def commit(self, *, start: bool = False, finish: bool = False) -> None:
        """Commit what waits, with a row of the run at its start and at its end.

        Raises:
            StoreError: the store cannot be written; nothing of this was.
        """
        now = datetime.now(UTC)
        self._drop_forgotten()
        batch: dict[str, list[dict[str, Any]]] = fingerprint_rows(self._buffer, self.summary.run_id)
        batch["outcomes"] = [{"run_id": self.summary.run_id, "at": now, **asdict(o)} for o in self._outcomes]
        if start or finish:
            batch["runs"] = [self._run_row(now if finish else None)]
        self._store.commit({name: tables.from_rows(name, rows) for name, rows in batch.items() if rows})
        self._buffer, self._outcomes, self._committed = [], [], time.monotonic()
        self._commits += 1
        if self._commits % COMPACT_EVERY == 0:
            self._store.compact()

    def _drop_forgotten(self) -> None:
        """Leave out what nobody asked for by name and `provenance forget` took out of the store during the crawl."""
        new = {repo for repo, at in self._store.tombstones().items() if at >= self._started}
        self._ledger.forgotten.update(new)
        gone, self._listed = self._listed & self._ledger.forgotten, set()
        if gone:
            kept = [found for found in self._buffer if found.checkpoint.repo_id not in gone]
            self.summary.fingerprinted -= len(self._buffer) - len(kept)
            self.summary.skipped += len(self._buffer) - len(kept)
            self._buffer = kept
            self._outcomes = [outcome for outcome in self._outcomes if outcome.repo_id not in gone]

    def _run_row(self, finished: datetime | None) -> dict[str, Any]:
        summary, transport, walk = self.summary, self._transport, self._walk
        traffic = transport.traffic if transport else None
        limits = transport.budgets.limits if transport else {}
        return {
            "run_id": summary.run_id,
            "started_at": self._started,
            "finished_at": finished,
            "source": " ".join(self._sources),
            "arguments": json.dumps(asdict(self._options)),
            "listed": summary.listed,
            "fingerprinted": summary.fingerprinted,
            "skipped": summary.skipped,
            "failed": summary.failed,
            "bytes_read": summary.bytes_read,
            "api_requests": traffic.api_requests if traffic else 0,
            "resolve_requests": traffic.resolve_requests if traffic else 0,
            "range_requests": traffic.range_requests if traffic else summary.requests,
            "waited": transport.budgets.waited if transport else 0.0,
            "budgets": json.dumps({name: {"quota": o.quota, "window": o.window} for name, o in limits.items()}),
            "listing": walk.key if walk else None,
            "watermark": self._watermark() if finished else None,
            "stopped": summary.stopped,
        }

    def _watermark(self) -> datetime | None:
        """That of the walk, if it came to its end. A full walk that met nothing did not: something is wrong there."""
        walk, summary = self._walk, self.summary
        if walk is None or summary.stopped or not (walk.delta or summary.listed):
            return None
        return walk.watermark
