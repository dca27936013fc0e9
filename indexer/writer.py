"""Write the results of a crawl to the store: collect them and commit them in batches."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from provenance.indexer.history import History
from provenance.indexer.store.rows import fingerprint_rows
from provenance.indexer.store.store import Store
from provenance.schemas import tables
from provenance.schemas.records import CrawlRun, Fingerprint, Outcome

COMMIT_EVERY = 64
"""Fingerprints in one commit."""
COMMIT_OUTCOMES = 20_000
COMMIT_SECONDS = 10.0
COMPACT_EVERY = 256
"""Commits between two compactions: every reader of the store opens each of their small parts."""


class Writer:
    """A `schemas.protocols.FingerprintSink` over one store.

    Attributes:
        run_id: the key of the crawl's rows in `runs` and `outcomes`.
        left_out: number of fingerprints dropped because `provenance forget` removed their repos during the crawl.
    """

    def __init__(self, store: Store, history: History, *, started: datetime) -> None:
        """Write to `store` for a crawl that started at `started`; repos forgotten since are added to `history`."""
        self._store, self._history, self._started = store, history, started
        self.run_id = f"{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self.left_out = 0
        self._fingerprints: list[tuple[str, Fingerprint]] = []  # with the repo of each
        self._outcomes: list[Outcome] = []
        self._unnamed: set[str] = set()
        self._committed, self._commits = time.monotonic(), 0

    def begin(self, run: CrawlRun) -> None:
        """Commit the row of a run at its start."""
        self._commit(run)

    def add(self, results: Sequence[tuple[Outcome, Fingerprint | None]], *, named: bool) -> None:
        """Add the results of one task. They are committed together, so that a repo is known wholly or not at all."""
        for outcome, fingerprint in results:
            self._outcomes.append(outcome)
            if fingerprint is not None:
                self._fingerprints.append((outcome.repo_id, fingerprint))
            if not named:
                self._unnamed.add(outcome.repo_id)

    def commit_if_due(self) -> None:
        """Commit if enough results are pending, or the last commit was long enough ago."""
        waited = time.monotonic() - self._committed
        if (
            len(self._fingerprints) >= COMMIT_EVERY
            or len(self._outcomes) >= COMMIT_OUTCOMES
            or (waited > COMMIT_SECONDS and self._outcomes)
        ):
            self._commit()

    def commit(self) -> None:
        """Commit the pending results."""
        self._commit()

    def finish(self, run: CrawlRun) -> None:
        """Commit the pending results and the row of a run at its end, and update `provenance.duckdb`."""
        self._commit(run)
        self._store.write_views()

    def _commit(self, run: CrawlRun | None = None) -> None:
        """Commit the pending results, and a row of `runs`.

        Raises:
            StoreError: the store cannot be written; none of this was committed.
        """
        now = datetime.now(UTC)
        self._leave_out_forgotten()
        batch: dict[str, list[dict[str, Any]]] = fingerprint_rows((f for _, f in self._fingerprints), self.run_id)
        batch["outcomes"] = [{"run_id": self.run_id, "at": now, **asdict(outcome)} for outcome in self._outcomes]
        batch["runs"] = [asdict(run)] if run else []
        self._store.commit({name: tables.from_rows(name, rows) for name, rows in batch.items() if rows})
        self._fingerprints, self._outcomes, self._committed = [], [], time.monotonic()
        self._commits += 1
        if self._commits % COMPACT_EVERY == 0:
            self._store.compact()

    def _leave_out_forgotten(self) -> None:
        """Drop results of repos that `provenance forget` removed during the crawl, unless the user named them."""
        self._history.forget(repo for repo, at in self._store.tombstones().items() if at >= self._started)
        forgotten, self._unnamed = self._unnamed & self._history.forgotten, set()
        if forgotten:
            kept = [(repo, fingerprint) for repo, fingerprint in self._fingerprints if repo not in forgotten]
            self.left_out += len(self._fingerprints) - len(kept)
            self._fingerprints = kept
            self._outcomes = [outcome for outcome in self._outcomes if outcome.repo_id not in forgotten]
