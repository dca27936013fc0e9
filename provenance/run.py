"""One crawl: workers that visit what is listed, until nothing is left, or somebody stops it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Protocol

from provenance.ahead import Ahead
from provenance.crawler.hub.answers import AbandonedError
from provenance.indexer.store.store import Store
from provenance.journal import Journal, RunSummary
from provenance.ledger import Ledger
from provenance.schemas.errors import CheckpointError, StoreError
from provenance.schemas.records import Outcome
from provenance.settings import CrawlOptions
from provenance.sources import Visit
from provenance.visiting import Visited, Visitor, mode_of, storable
from provenance.walk import Walk

if TYPE_CHECKING:
    from provenance.crawler.hub.transport import HubTransport

log = logging.getLogger("provenance.crawl")

_AHEAD = 2_000  # listed repos: two pages
_TICK = 0.5  # seconds


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
        self.stop, self.transport = stop, transport
        self._journal = Journal(store, ledger, options, sources, transport, walk)
        self.summary = self._journal.summary
        self._visitor = Visitor(options, ledger)
        self._clock = time.monotonic()
        self._pending: dict[Future[list[Visited]], Visit] = {}
        self._passed = 0
        self._interrupted = False

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
        self._journal.commit(start=True)
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
            self._journal.commit()  # what is in hand, before whatever this is ends it all
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
        self._journal.commit(finish=True)
        self.store.write_views()
        return self.summary

    def _visit_all(self, pool: ThreadPoolExecutor, visits: Ahead[Visit]) -> None:
        pending = self._pending
        while pending or not visits.ended:
            self._heed_interrupt()
            if not self._fill(pool, visits) and not pending:
                break
            # Until all workers have something to do, look often for what was listed meanwhile.
            idle = len(pending) < self.options.workers and not visits.ended
            for future in wait(pending, timeout=_TICK / 10 if idle else _TICK, return_when=FIRST_COMPLETED).done:
                self._take(pending.pop(future), future.result())
            self._journal.commit_if_due()
            if self.progress and self.transport:
                self.progress.budgets(self.transport)
        self._heed_interrupt()

    def _heed_interrupt(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

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
        for outcome in self._journal.take(visit, visited):
            if self.progress:
                self.progress.visited(outcome)
