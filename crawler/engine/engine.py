"""The engine of a crawl: a pool of workers does tasks until none is left, a budget is used up, or somebody stops it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Protocol

from provenance.crawler.engine.frontier import Frontier
from provenance.crawler.engine.incremental import ListingPlan
from provenance.crawler.engine.options import CrawlOptions
from provenance.crawler.engine.prefetch import Prefetch
from provenance.crawler.engine.summary import CrawlSummary, Tally
from provenance.crawler.engine.tasks import CrawlTask
from provenance.crawler.engine.worker import Result, Worker, storable
from provenance.crawler.hub.answers import AbandonedError
from provenance.schemas.enums import Reason, Source, Stage, Status
from provenance.schemas.errors import CheckpointError, StoreError
from provenance.schemas.protocols import FingerprintSink
from provenance.schemas.records import CrawlRun, Fingerprint, Outcome

if TYPE_CHECKING:
    from provenance.crawler.hub.transport import HubTransport

_AHEAD = 2_000  # listed repos: two pages
_TICK = 0.5  # seconds


class Progress(Protocol):
    """What a crawl tells while it runs."""

    def found(self, total: int | None) -> None:
        """So many tasks are to be done; null where nobody knows yet."""

    def visited(self, outcome: Outcome) -> None:
        """One checkpoint, or a repo that came to none, has its outcome."""

    def passed(self, listed: int) -> None:
        """So many listed repos were skipped because they are known, in sum."""

    def budgets(self, transport: HubTransport) -> None:
        """Called every second or so: what is left of a hub's budgets, and what was waited for them."""


class Engine:
    """One crawl; `run` it once."""

    def __init__(
        self,
        frontier: Frontier,
        options: CrawlOptions,
        sink: FingerprintSink,
        *,
        described: str,
        started: datetime,
        stop: Event,
        progress: Progress | None = None,
        transport: HubTransport | None = None,
        plan: ListingPlan | None = None,
    ) -> None:
        """Set up; nothing is begun yet.

        Args:
            frontier: the tasks.
            options: how many workers and which budgets, and how to read.
            sink: takes the results.
            described: what is crawled, in words.
            started: when the crawl began.
            stop: set once the crawl is to end: nothing further is begun, and nobody waits for a server any more.
            progress: is told of every outcome.
            transport: to the hub, null where none is needed.
            plan: of the hub's listing, null where it is not crawled.
        """
        self._frontier, self._options, self._sink, self._progress = frontier, options, sink, progress
        self._described, self._started, self._stop = described, started, stop
        self._transport, self._plan = transport, plan
        self._tally = Tally(listed=frontier.n_local)
        self._worker = Worker(options, frontier)
        self._clock = time.monotonic()
        self._pending: dict[Future[list[Result]], CrawlTask] = {}
        self._passed = 0
        self._interrupted = False

    def run(self) -> CrawlSummary:
        """Do all tasks.

        Raises:
            StoreError: the sink cannot keep what it was given; what it had committed stays.
        """
        if self._progress:
            self._progress.found(self._frontier.expected)
        with self._interrupts():
            return self._run()

    def _run(self) -> CrawlSummary:
        self._sink.begin(self._record(None))
        pool = ThreadPoolExecutor(self._options.workers, thread_name_prefix="crawl")
        try:
            self._work_off(pool, self._frontier.tasks())
            self._work_off(pool, self._frontier.retries())
        except KeyboardInterrupt:
            self._tally.stopped = "interrupted"
            self._finish_pending()
        except StoreError:
            self._worker.abandon()  # nothing more can be kept
            raise
        except BaseException:
            self._sink.commit()  # what is in hand, before whatever this is ends it all
            raise
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
        return self._end()

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """While this is open, Ctrl-C and SIGTERM end the crawl between two steps, and never inside a commit.

        The first one lets what is in hand be finished, the second ends the reads too.
        """

        def interrupt(*_: object) -> None:
            if self._interrupted:
                self._worker.abandon()
            self._interrupted = True
            self._stop.set()

        if threading.current_thread() is not threading.main_thread():
            yield  # which signals never reach
            return
        before = {sign: signal.signal(sign, interrupt) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    def _end(self) -> CrawlSummary:
        seconds = time.monotonic() - self._clock
        self._sink.commit()
        self._tally.leave_out(self._sink.left_out)
        self._sink.finish(self._record(datetime.now(UTC)))
        return self._tally.summary(self._sink.run_id, seconds)

    def _work_off(self, pool: ThreadPoolExecutor, tasks: Iterator[CrawlTask | int]) -> None:
        """Have all these tasks done; returns early where a budget is used up."""
        pending, ahead = self._pending, Prefetch(tasks, _AHEAD, self._stop)
        while pending or not ahead.ended:
            self._check_interrupt()
            if not self._fill(pool, ahead) and not pending:
                break
            # Until all workers have something to do, look often for what was listed meanwhile.
            idle = len(pending) < self._options.workers and not ahead.ended
            for future in wait(pending, timeout=_TICK / 10 if idle else _TICK, return_when=FIRST_COMPLETED).done:
                self._take(pending.pop(future), future.result())
            self._sink.commit_if_due()
            if self._progress and self._transport:
                self._progress.budgets(self._transport)
        self._check_interrupt()

    def _check_interrupt(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    def _fill(self, pool: ThreadPoolExecutor, ahead: Prefetch[CrawlTask | int]) -> bool:
        """Give the workers something to do; false where there is nothing more to begin."""
        while len(self._pending) < 2 * self._options.workers and not ahead.ended:
            try:
                task = ahead.take(0.0 if self._pending else _TICK)
            except AbandonedError:
                return False
            except CheckpointError as error:
                self._tally.stopped = f"the listing broke off: {storable(str(error))}"
                self._tally.broke_off = True
                return False
            if task is None and ahead.ended:
                break
            if not self._within_budget():
                return False
            if task is None:
                break
            if isinstance(task, int):
                self._pass_over(task)
            else:
                self._tally.listed += task.source is Source.HUB
                self._pending[pool.submit(self._worker.work, task)] = task
        return True

    def _pass_over(self, repos: int) -> None:
        # No row in `outcomes`: a nightly crawl passes over a million repos, and nothing happened to them.
        self._tally.listed += repos
        self._tally.skipped += repos
        for _ in range(repos):
            self._passed += 1
            if self._progress:
                self._progress.passed(self._passed)

    def _finish_pending(self) -> None:
        """Finish and keep what is being read; what only waits is dropped."""
        self._stop.set()
        for future, task in [(f, t) for f, t in self._pending.items() if not f.cancel()]:
            self._take(task, future.result())

    def _within_budget(self) -> bool:
        options, tally = self._options, self._tally
        if options.max_bytes is not None and tally.bytes_read >= options.max_bytes:
            tally.stopped = "the byte budget is used up (--max-bytes)"
        elif options.max_time is not None and time.monotonic() - self._clock >= options.max_time:
            tally.stopped = "the time is up (--max-time)"
        return tally.stopped is None

    def _take(self, task: CrawlTask, results: Sequence[Result]) -> None:
        """Count the results of a task and hand them on."""
        if not results:
            return
        kept = [self._kept(task, outcome, fingerprint) for outcome, fingerprint in results]
        self._sink.add([*kept, *_renamed(task, kept)], named=task.named)
        self._sink.commit_if_due()
        for outcome, _ in kept:
            if self._progress:
                self._progress.visited(outcome)

    def _kept(self, task: CrawlTask, outcome: Outcome, fingerprint: Fingerprint | None) -> Result:
        """A result as it is kept: a failure with its next attempt, and no fingerprint that is known."""
        outcome = self._frontier.scheduled(outcome)
        if fingerprint is not None and self._frontier.take_in(task, fingerprint):
            # Only reading it told the revision, or another source of this crawl held the same.
            message = f"{outcome.repo_id}: already stored, unchanged"
            outcome = replace(outcome, status=Status.SKIPPED, stage=Stage.STORE, reason=Reason.KNOWN, message=message)
            fingerprint = None
        self._tally.add(outcome)
        return outcome, fingerprint

    def _record(self, finished: datetime | None) -> CrawlRun:
        tally, transport, plan = self._tally, self._transport, self._plan
        traffic = transport.traffic if transport else None
        limits = transport.budgets.limits if transport else {}
        return CrawlRun(
            run_id=self._sink.run_id,
            started_at=self._started,
            finished_at=finished,
            source=storable(self._described),
            arguments=json.dumps(asdict(self._options)),
            listed=tally.listed,
            fingerprinted=tally.fingerprinted,
            skipped=tally.skipped,
            failed=tally.failed,
            bytes_read=tally.bytes_read,
            api_requests=traffic.api_requests if traffic else 0,
            resolve_requests=traffic.resolve_requests if traffic else 0,
            range_requests=traffic.range_requests if traffic else tally.requests,
            waited=transport.budgets.waited if transport else 0.0,
            budgets=json.dumps({name: {"quota": o.quota, "window": o.window} for name, o in limits.items()}),
            listing=plan.key if plan else None,
            watermark=self._watermark() if finished else None,
            stopped=tally.stopped,
        )

    def _watermark(self) -> datetime | None:
        """That of the plan, if the listing came to its end. A full one without a repo did not: something is wrong."""
        plan, tally = self._plan, self._tally
        if plan is None or tally.stopped or not (plan.incremental or tally.listed):
            return None
        return plan.watermark


def _renamed(task: CrawlTask, results: Sequence[Result]) -> list[Result]:
    """An outcome for a repo that has another name now: else a failure under the old one would be due for ever."""
    names = {outcome.repo_id for outcome, _ in results}
    if task.source is not Source.HUB or task.repo_id in names:
        return []
    message = f"{task.repo_id}: is called {', '.join(sorted(names))} now"
    return [
        (
            Outcome(
                task.repo_id,
                None,
                Status.SKIPPED,
                stage=Stage.PLAN,
                reason=Reason.RENAMED,
                message=message,
                source=Source.HUB,
            ),
            None,
        )
    ]
