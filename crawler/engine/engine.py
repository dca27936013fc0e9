"""The engine of a crawl: a pool of workers does tasks until none is left, a budget is used up, or it is interrupted."""

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

from provenance.crawler.engine.allowance import Allowance
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
from provenance.schemas.naming import renaming
from provenance.schemas.protocols import FingerprintSink
from provenance.schemas.records import CrawlRun, Fingerprint, Outcome

if TYPE_CHECKING:
    from provenance.crawler.hub.transport import HubTransport

_AHEAD = 2_000  # listed repos to prefetch: two pages
_TICK = 0.5  # seconds between two looks at budgets and interrupts
_GRACE = 30.0  # seconds that running checkpoints have to finish after an interrupt


class Progress(Protocol):
    """What a crawl reports while it runs."""

    def found(self, total: int | None) -> None:
        """The number of tasks to do; null if it is not known yet."""

    def visited(self, outcome: Outcome) -> None:
        """The outcome of one checkpoint, or of a repo without one."""

    def passed(self, listed: int) -> None:
        """The total number of listed repos that were skipped because they are known."""

    def budgets(self, transport: HubTransport) -> None:
        """Called about once a second: the state of a hub's rate limits, and the time waited for them."""


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
        """Set up; nothing is started yet.

        Args:
            frontier: the tasks.
            options: number of workers, budgets, and how to read.
            sink: receives the results.
            described: what is crawled, in words.
            started: when the crawl began.
            stop: set to end the crawl: no further task is started, and no thread waits for a server any more.
            progress: called with every outcome.
            transport: to the hub, null if none is needed.
            plan: of the hub's listing, null if it is not crawled.
        """
        self._frontier, self._options, self._sink, self._progress = frontier, options, sink, progress
        self._described, self._started, self._stop = described, started, stop
        self._transport, self._plan = transport, plan
        self._tally = Tally(listed=frontier.n_local)
        self._allowance = Allowance(options, stop)
        self._worker = Worker(options, frontier, self._allowance)
        self._pending: dict[Future[list[Result]], CrawlTask] = {}
        self._passed = 0
        self._interrupted = False

    def run(self) -> CrawlSummary:
        """Do all tasks.

        Raises:
            StoreError: the sink cannot store a result; what it had committed stays.
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
            self._abandon()  # further results could not be stored
            raise
        except BaseException:
            self._sink.commit()  # keep the results so far before this unexpected error ends the crawl
            raise
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
        return self._end()

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Inside this context, Ctrl-C and SIGTERM end the crawl between two steps, never inside a commit.

        The first signal lets running checkpoints finish for up to `_GRACE` seconds, the second ends their reads.
        """

        def interrupt(*_: object) -> None:
            if self._interrupted:
                self._abandon()
            self._interrupted = True
            self._stop.set()

        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _end(self) -> CrawlSummary:
        seconds = self._allowance.seconds
        self._sink.commit()
        self._tally.leave_out(self._sink.left_out)
        self._sink.finish(self._record(datetime.now(UTC)))
        return self._tally.summary(self._sink.run_id, seconds)

    def _abandon(self) -> None:
        """End all reads, those that wait for a server too."""
        self._worker.abandon()
        if self._transport is not None:
            self._transport.end()

    def _work_off(self, pool: ThreadPoolExecutor, tasks: Iterator[CrawlTask | int]) -> None:
        """Do all these tasks; returns early if a budget is used up."""
        pending, ahead = self._pending, Prefetch(tasks, _AHEAD, self._stop)
        while pending or not ahead.ended:
            self._check_interrupt()
            if not self._fill(pool, ahead) and not pending:
                break
            # While some workers are idle, check often for newly listed tasks.
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
        """Submit tasks to the workers; false if no more tasks are to be started."""
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
        # No row in `outcomes`: a nightly crawl skips a million unchanged repos.
        self._tally.pass_over(repos)
        for _ in range(repos):
            self._passed += 1
            if self._progress:
                self._progress.passed(self._passed)

    def _finish_pending(self) -> None:
        """Keep what is finished, then wait a while for the running tasks; drop the waiting ones."""
        self._stop.set()
        running = {future: task for future, task in self._pending.items() if not future.cancel()}
        until = time.monotonic() + _GRACE
        self._sink.commit()
        while running:
            for future in wait(running, timeout=_TICK, return_when=FIRST_COMPLETED).done:
                self._take(running.pop(future), future.result())
                self._sink.commit()
            if time.monotonic() >= until:
                self._abandon()

    def _within_budget(self) -> bool:
        if (why := self._allowance.exhausted()) and not self._stop.is_set():
            self._tally.stopped = why
        return why is None

    def _take(self, task: CrawlTask, results: Sequence[Result]) -> None:
        """Count the results of a task and pass them to the sink."""
        if not results:
            return
        kept = [self._kept(task, outcome, fingerprint) for outcome, fingerprint in results]
        self._sink.add([*kept, *_renamed(task, kept)], named=task.named)
        self._sink.commit_if_due()
        for outcome, _ in kept:
            if self._progress:
                self._progress.visited(outcome)

    def _kept(self, task: CrawlTask, outcome: Outcome, fingerprint: Fingerprint | None) -> Result:
        """A result as it is stored: a failure with the time of its next attempt, and no known fingerprint."""
        outcome = self._frontier.scheduled(outcome)
        if fingerprint is not None and self._frontier.take_in(task, fingerprint):
            # Its revision was unknown until it was read, or another source of this crawl has the same checkpoint.
            message = f"{outcome.repo_id}: already stored, unchanged"
            outcome = replace(outcome, status=Status.SKIPPED, stage=Stage.STORE, reason=Reason.KNOWN, message=message)
            fingerprint = None
        self._tally.add(outcome, task.given)
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
            arguments=json.dumps(asdict(self._options), default=str),
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
        """The plan's watermark if the listing was read to its end; a full listing without any repo is not trusted."""
        plan, tally = self._plan, self._tally
        if plan is None or tally.stopped or not (plan.incremental or tally.listed):
            return None
        return plan.watermark


def _renamed(task: CrawlTask, results: Sequence[Result]) -> list[Result]:
    """An outcome for the old name of a renamed repo: otherwise a failure under that name would stay due for ever."""
    names = {outcome.repo_id for outcome, _ in results}
    if task.source is not Source.HUB or task.repo_id in names:
        return []
    message = renaming(task.repo_id, ", ".join(sorted(names)))
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
