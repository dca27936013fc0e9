"""One crawl: workers that visit, a ledger of what needs no visit, and commits of what was found."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from crawler.answers import AbandonedError
from indexer.rows import fingerprint_rows
from indexer.store import Store
from provenance.ahead import Ahead
from provenance.ledger import Ledger
from provenance.settings import CrawlOptions
from provenance.sources import Visit
from provenance.visiting import Visited, Visitor, mode_of, storable
from provenance.walk import Walk
from schemas import tables
from schemas.errors import CheckpointError, StoreError
from schemas.records import Fingerprint, Outcome

if TYPE_CHECKING:
    from crawler.transport import HubTransport

log = logging.getLogger("provenance.crawl")

COMMIT_EVERY = 64
"""Fingerprints in one commit."""
COMMIT_OUTCOMES = 20_000
COMMIT_SECONDS = 10.0
COMPACT_EVERY = 256
"""Commits after which the small parts that they left are merged: everything that reads the store opens each of them."""

_AHEAD = 2_000  # listed repos: two pages
_TICK = 0.5  # seconds
_KEPT_FAILURES = 100


class Progress(Protocol):
    """What a crawl tells whoever watches it."""

    def found(self, total: int | None) -> None:
        """So many visits are to be made; null where nobody knows yet."""

    def visited(self, outcome: Outcome) -> None:
        """One visit ended."""

    def passed(self, listed: int) -> None:
        """So many listed repos needed no visit, in sum."""

    def budgets(self, transport: HubTransport) -> None:
        """Called every second or so: what is left of a hub's budgets, and what was waited for them."""


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


class Run:
    """One crawl.

    Attributes:
        stop: set once the crawl is to end: nothing further is begun, and nobody waits for a server any more.
    """

    def __init__(
        self,
        store: Store,
        options: CrawlOptions,
        sources: Iterable[str],
        progress: Progress | None,
        *,
        ledger: Ledger,
        stop: Event,
        transport: HubTransport | None = None,
        walk: Walk | None = None,
    ) -> None:
        self.store, self.options, self.progress, self.ledger = store, options, progress, ledger
        self.stop, self.transport, self.walk = stop, transport, walk
        self.started = datetime.now(UTC)
        self.summary = RunSummary(f"{self.started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}")
        self.sources = [storable(source) for source in sources]
        self._visitor = Visitor(options, ledger)
        self._clock = self._committed = time.monotonic()
        self._buffer: list[Fingerprint] = []
        self._outcomes: list[Outcome] = []
        self._pending: dict[Future[list[Visited]], Visit] = {}
        self._listed: set[str] = set()
        self._passed = 0
        self._interrupted = False
        self._commits = 0

    def crawl(
        self,
        visits: Iterable[Visit],
        *,
        afterwards: Callable[[], Iterable[Visit]] = tuple,
        listed: int,
        expected: int | None,
    ) -> RunSummary:
        """Make all visits.

        Args:
            visits: what to visit; taken from it some thousands ahead.
            afterwards: what to visit once all those have ended.
            listed: visits that are known beforehand.
            expected: how many visits there will be; null where nobody knows.

        Raises:
            StoreError: the store cannot be written, as on a full disk; what was committed stays.
        """
        self.summary.listed = listed
        if self.progress:
            self.progress.found(expected)
        with self._interrupts():
            return self._crawl(visits, afterwards)

    def _crawl(self, visits: Iterable[Visit], afterwards: Callable[[], Iterable[Visit]]) -> RunSummary:
        self._commit(start=True)
        pool = ThreadPoolExecutor(self.options.workers, thread_name_prefix="crawl")
        try:
            self._visit_all(pool, Ahead(iter(visits), _AHEAD, self.stop))
            # Nobody named these in this crawl: as with listed ones, what was forgotten meanwhile stays away.
            unnamed = (replace(visit, listed=True) for visit in afterwards())
            self._visit_all(pool, Ahead(unnamed, _AHEAD, self.stop))
        except KeyboardInterrupt:
            self.summary.stopped = "interrupted"
            self._finish_pending()
        except StoreError:
            self._visitor.abandon()  # nothing more can be kept
            raise
        except BaseException:
            self._commit()  # what is in hand, before whatever this is ends it all
            raise
        finally:
            self.stop.set()
            pool.shutdown(cancel_futures=True)
        return self._end()

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """While this is open, Ctrl-C and SIGTERM end the crawl between two steps, and never inside a commit.

        The first one lets what is in hand be finished, the second ends the reads too.
        """

        def interrupt(*_: object) -> None:
            if self._interrupted:
                self._visitor.abandon()
            self._interrupted = True
            self.stop.set()

        if threading.current_thread() is not threading.main_thread():
            yield  # which signals never reach
            return
        before = {sign: signal.signal(sign, interrupt) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    def _end(self) -> RunSummary:
        self.summary.seconds = time.monotonic() - self._clock
        self._commit(finish=True)
        self.store.write_views()
        return self.summary

    def _visit_all(self, pool: ThreadPoolExecutor, visits: Ahead[Visit]) -> None:
        pending = self._pending
        while pending or not visits.ended:
            if self._interrupted:
                raise KeyboardInterrupt
            if not self._fill(pool, visits) and not pending:
                return
            # Until all workers have something to do, look often for what was listed meanwhile.
            idle = len(pending) < self.options.workers and not visits.ended
            for future in wait(pending, timeout=_TICK / 10 if idle else _TICK, return_when=FIRST_COMPLETED).done:
                self._take(pending.pop(future), future.result())
            self._commit_if_due()
            if self.progress and self.transport:
                self.progress.budgets(self.transport)

    def _fill(self, pool: ThreadPoolExecutor, visits: Ahead[Visit]) -> bool:
        """Give the workers something to do; false where there is nothing more to begin."""
        while len(self._pending) < 2 * self.options.workers and not visits.ended:
            try:
                visit = visits.take(0.0 if self._pending else _TICK)
            except AbandonedError:
                return False
            except CheckpointError as error:
                self.summary.stopped = f"the listing broke off: {storable(str(error))}"
                self.summary.broke_off = True
                return False
            if visit is None and visits.ended:
                break
            if not self._within_budget():
                return False
            if visit is None:
                break
            self.summary.listed += visit.hub
            mode = mode_of(self.options, hub=visit.hub)
            if visit.listed and (why := self.ledger.settled(visit.repo_id, visit.revision, mode)):
                self._pass_over(visit, why)
            else:
                if visit.hub:
                    self.ledger.note_visit(visit.repo_id)
                self._pending[pool.submit(self._visitor.visit, visit)] = visit
        return True

    def _pass_over(self, visit: Visit, why: str) -> None:
        # No row in `outcomes`: a nightly walk passes over a million repos, and nothing happened to them.
        log.debug("%s: %s", visit.repo_id, why)
        self.summary.skipped += 1
        self._passed += 1
        if self.progress:
            self.progress.passed(self._passed)

    def _finish_pending(self) -> None:
        """Finish and keep what is being read; what only waits is dropped."""
        self.stop.set()
        for future, visit in [(f, v) for f, v in self._pending.items() if not f.cancel()]:
            self._take(visit, future.result())

    def _within_budget(self) -> bool:
        options = self.options
        if options.max_bytes is not None and self.summary.bytes_read >= options.max_bytes:
            self.summary.stopped = "the byte budget is used up (--max-bytes)"
        elif options.max_time is not None and time.monotonic() - self._clock >= options.max_time:
            self.summary.stopped = "the time is up (--max-time)"
        return self.summary.stopped is None

    def _take(self, visit: Visit, visited: Sequence[Visited]) -> None:
        """Keep all that one visit found: it is committed together, so that a repo is known whole or not at all."""
        if not visited:
            return
        for outcome, result in visited:
            self._keep(self.ledger.schedule(outcome), result)
            if visit.listed:
                self._listed.add(outcome.repo_id)
        names = {outcome.repo_id for outcome, _ in visited}
        if visit.hub and visit.repo_id not in names:
            # Else a failure under the old name would be due for ever.
            message = f"{visit.repo_id}: is called {', '.join(sorted(names))} now"
            self._outcomes.append(
                Outcome(visit.repo_id, None, "skipped", stage="plan", reason="renamed", message=message, source="hub")
            )
        self._commit_if_due()

    def _keep(self, outcome: Outcome, result: Fingerprint | None) -> None:
        summary = self.summary
        if result is not None:
            row = result.checkpoint
            if self.ledger.has(row["checkpoint_id"], row["mode"]):
                # Only reading it told the revision, or another source of this run held the same.
                message = f"{outcome.repo_id}: already stored, unchanged"
                outcome = replace(outcome, status="skipped", stage="store", reason="known", message=message)
            else:
                self.ledger.note_fingerprint(row["checkpoint_id"], row["mode"])
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
        if self.progress:
            self.progress.visited(outcome)

    def _commit_if_due(self) -> None:
        waited = time.monotonic() - self._committed
        if (
            len(self._buffer) >= COMMIT_EVERY
            or len(self._outcomes) >= COMMIT_OUTCOMES
            or (waited > COMMIT_SECONDS and (self._buffer or self._outcomes))
        ):
            self._commit()

    def _commit(self, *, start: bool = False, finish: bool = False) -> None:
        now = datetime.now(UTC)
        self._drop_forgotten()
        batch: dict[str, list[dict[str, Any]]] = fingerprint_rows(self._buffer, self.summary.run_id)
        batch["outcomes"] = [{"run_id": self.summary.run_id, "at": now, **asdict(o)} for o in self._outcomes]
        if start or finish:
            batch["runs"] = [self._run_row(now if finish else None)]
        self.store.commit({name: tables.from_rows(name, rows) for name, rows in batch.items() if rows})
        self._buffer, self._outcomes, self._committed = [], [], time.monotonic()
        self._commits += 1
        if self._commits % COMPACT_EVERY == 0:
            self.store.compact()

    def _drop_forgotten(self) -> None:
        """Leave out what nobody asked for by name and `provenance forget` took out of the store during the crawl."""
        new = {repo for repo, at in self.store.tombstones().items() if at >= self.started}
        self.ledger.forgotten.update(new)
        gone, self._listed = self._listed & self.ledger.forgotten, set()
        if gone:
            kept = [found for found in self._buffer if found.checkpoint["repo_id"] not in gone]
            self.summary.fingerprinted -= len(self._buffer) - len(kept)
            self.summary.skipped += len(self._buffer) - len(kept)
            self._buffer = kept
            self._outcomes = [outcome for outcome in self._outcomes if outcome.repo_id not in gone]

    def _run_row(self, finished: datetime | None) -> dict[str, Any]:
        summary, transport, walk = self.summary, self.transport, self.walk
        traffic = transport.traffic if transport else None
        limits = transport.budgets.limits if transport else {}
        return {
            "run_id": summary.run_id,
            "started_at": self.started,
            "finished_at": finished,
            "source": " ".join(self.sources),
            "arguments": json.dumps(asdict(self.options)),
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
        walk, summary = self.walk, self.summary
        if walk is None or summary.stopped or not (walk.delta or summary.listed):
            return None
        return walk.watermark
