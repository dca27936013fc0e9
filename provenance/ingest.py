"""The only wiring of the crawler to the store: visit checkpoints, commit fingerprints, keep every outcome."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from crawler.fingerprint import UNKNOWN_REVISION, fingerprint
from crawler.local import LocalRepo, find_local, listed_checkpoints
from crawler.local_reader import LocalReader
from crawler.plan import SAMPLE_SIZES, SampleSize
from indexer.rows import fingerprint_rows
from indexer.store import Store
from provenance.settings import CrawlOptions
from schemas import tables
from schemas.errors import CheckpointError, SkippedCheckpoint, SourceError
from schemas.records import Fingerprint, ListedCheckpoint, Outcome
from schemas.tables import FINGERPRINT_VERSION

log = logging.getLogger("provenance.crawl")

COMMIT_EVERY = 64
COMMIT_SECONDS = 10.0


class Progress(Protocol):
    """What a crawl tells whoever watches it."""

    def found(self, total: int) -> None:
        """`total` checkpoints are known to visit so far."""

    def visited(self, outcome: Outcome) -> None:
        """One visit ended."""


@dataclass(slots=True)
class RunSummary:
    """What a crawl did; `stopped` says why it ended early, if it did."""

    run_id: str
    listed: int = 0
    fingerprinted: int = 0
    skipped: int = 0
    failed: int = 0
    bytes_read: int = 0
    requests: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    failures: list[Outcome] = field(default_factory=list)


def crawl_local(
    store: Store, sources: Sequence[Path], options: CrawlOptions, progress: Progress | None = None
) -> RunSummary:
    """Crawl local folders into a store.

    One bad checkpoint is one row of `outcomes`; what is done is committed every few seconds, and also when
    the crawl is interrupted.

    Raises:
        SourceError: a source cannot be used at all; nothing was crawled.
    """
    visits = [visit for source in sources for visit in local_visits(source)]
    return _Run(store, options, sources, progress).crawl(visits)


@dataclass(frozen=True, slots=True)
class Visit:
    """One checkpoint to visit; `fault` where listing it already failed."""

    repo: LocalRepo
    listed: ListedCheckpoint | None = None
    fault: CheckpointError | None = None


def local_visits(source: Path) -> Iterator[Visit]:
    """Every checkpoint of a local source, broken ones included."""
    for repo in find_local(source):
        try:
            for listed in listed_checkpoints(repo):
                yield Visit(repo, listed)
        except CheckpointError as error:
            yield Visit(repo, fault=error)


def fingerprint_local(source: Path, options: CrawlOptions) -> list[Fingerprint]:
    """Fingerprint a local folder without storing it.

    Raises:
        SourceError: there is nothing there.
        CheckpointError: it cannot be fingerprinted.
    """
    found = []
    for visit in local_visits(source):
        if visit.fault is not None or visit.listed is None:
            raise visit.fault or SourceError(f"{source}: no checkpoint found")
        found.append(_fingerprint(visit.repo, visit.listed, options))
    return found


def _fingerprint(repo: LocalRepo, listed: ListedCheckpoint, options: CrawlOptions) -> Fingerprint:
    with LocalReader(repo.folder, repo.root) as reader:
        return fingerprint(listed, reader, size=_size(options), now=datetime.now(UTC))


class _Run:
    """One crawl: a pool of workers, a buffer of what is not committed yet, and the ledger of what is known."""

    def __init__(
        self, store: Store, options: CrawlOptions, sources: Iterable[object], progress: Progress | None
    ) -> None:
        self.store, self.options, self.progress = store, options, progress
        self.summary = RunSummary(datetime.now(UTC).strftime("%Y%m%dT%H%M%S-") + uuid.uuid4().hex[:8])
        self.sources = [storable(str(source)) for source in sources]
        self.started = datetime.now(UTC)
        self.clock = time.monotonic()
        self.known = _known(store)
        self.kept: set[tuple[str, str, int]] = set()
        self.buffer: list[Fingerprint] = []
        self.outcomes: list[Outcome] = []
        self.committed = time.monotonic()

    def crawl(self, visits: Sequence[Visit]) -> RunSummary:
        self.summary.listed = len(visits)
        if self.progress:
            self.progress.found(len(visits))
        self._commit(start=True)
        try:
            self._visit_all(visits)
        except KeyboardInterrupt:
            self.summary.stopped = "interrupted"
        self.summary.seconds = time.monotonic() - self.clock
        self._commit(finish=True)
        self.store.write_views()
        return self.summary

    def _visit_all(self, visits: Sequence[Visit]) -> None:
        queue = deque(visits)
        with ThreadPoolExecutor(self.options.workers, thread_name_prefix="crawl") as pool:
            pending: set[Future[tuple[Outcome, Fingerprint | None]]] = set()
            try:
                while True:
                    while queue and len(pending) < 2 * self.options.workers and self._within_budget():
                        pending.add(pool.submit(self._visit, queue.popleft()))
                    if not pending:
                        return
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        pending.remove(future)
                        self._take(*future.result())
            except KeyboardInterrupt:
                # What is being read is finished and kept; what only waits is dropped.
                running = [future for future in pending if not future.cancel()]
                for future in running:
                    self._take(*future.result())
                raise

    def _within_budget(self) -> bool:
        options = self.options
        if options.max_bytes is not None and self.summary.bytes_read >= options.max_bytes:
            self.summary.stopped = "the byte budget is used up (--max-bytes)"
        elif options.max_time is not None and time.monotonic() - self.clock >= options.max_time:
            self.summary.stopped = "the time is up (--max-time)"
        return self.summary.stopped is None

    def _visit(self, visit: Visit) -> tuple[Outcome, Fingerprint | None]:
        """Fingerprint one checkpoint. The one place where any failure becomes an outcome."""
        began = time.monotonic()
        listed = visit.listed
        revision = listed.identity.revision if listed else visit.repo.revision
        outcome = Outcome(visit.repo.repo_id, None if revision == UNKNOWN_REVISION else revision, "done")
        result: Fingerprint | None = None
        try:
            if visit.fault is not None:
                raise visit.fault
            if listed is None:
                raise SkippedCheckpoint(f"{visit.repo.repo_id}: nothing to read")
            if self._is_known(str(listed.identity)):
                outcome = replace(outcome, status="skipped", stage="plan", message="already stored at this revision")
            else:
                result = _fingerprint(visit.repo, listed, self.options)
                row = result.checkpoint
                outcome = replace(
                    outcome, revision=row["revision"], bytes_read=row["bytes_read"], requests=row["requests"]
                )
        except SkippedCheckpoint as skipped:
            outcome = replace(
                outcome, status="skipped", stage=skipped.stage, error=type(skipped).__name__, message=str(skipped)
            )
        except CheckpointError as error:
            outcome = replace(
                outcome, status="failed", stage=error.stage, error=type(error).__name__, message=str(error)
            )
        except Exception as error:
            log.exception("%s: unexpected failure", visit.repo.repo_id)
            outcome = replace(
                outcome,
                status="failed",
                stage="read",
                error=type(error).__name__,
                message=f"unexpected {type(error).__name__}: {error}",
            )
        message = outcome.message
        if message is not None:
            message = storable(message if outcome.repo_id in message else f"{outcome.repo_id}: {message}")
        return replace(outcome, message=message, seconds=time.monotonic() - began), result

    def _is_known(self, checkpoint_id: str) -> bool:
        mode = "full" if _size(self.options) is None else "sampled"
        key = (checkpoint_id, mode, FINGERPRINT_VERSION)
        return key in self.kept or (key in self.known and not self.options.refingerprint)

    def _take(self, outcome: Outcome, result: Fingerprint | None) -> None:
        summary = self.summary
        if outcome.status == "failed":
            summary.failed += 1
            summary.failures.append(outcome)
        elif outcome.status == "skipped":
            summary.skipped += 1
        if result is not None:
            row = result.checkpoint
            if self._is_known(row["checkpoint_id"]):
                # Only reading it told the revision, or another source of this run held the same.
                message = f"{outcome.repo_id}: already stored, unchanged"
                outcome = replace(outcome, status="skipped", stage="store", message=message)
                summary.skipped += 1
            else:
                self.kept.add((row["checkpoint_id"], row["mode"], row["fingerprint_version"]))
                self.buffer.append(result)
                summary.fingerprinted += 1
        summary.bytes_read += outcome.bytes_read
        summary.requests += outcome.requests
        self.outcomes.append(outcome)
        if self.progress:
            self.progress.visited(outcome)
        if len(self.buffer) >= COMMIT_EVERY or time.monotonic() - self.committed > COMMIT_SECONDS:
            self._commit()

    def _commit(self, *, start: bool = False, finish: bool = False) -> None:
        now = datetime.now(UTC)
        batch: dict[str, list[dict[str, Any]]] = fingerprint_rows(self.buffer, self.summary.run_id)
        batch["outcomes"] = [{"run_id": self.summary.run_id, "at": now, **asdict(o)} for o in self.outcomes]
        if start or finish:
            batch["runs"] = [self._run_row(now if finish else None)]
        self.store.commit({name: tables.from_rows(name, rows) for name, rows in batch.items() if rows})
        self.buffer, self.outcomes, self.committed = [], [], time.monotonic()

    def _run_row(self, finished: datetime | None) -> dict[str, Any]:
        summary = self.summary
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
            "api_requests": 0,
            "resolve_requests": 0,
            "range_requests": summary.requests,
        }


def storable(text: str) -> str:
    """Text that UTF-8 can hold: the name of a file may hold any byte, which Python shows as half a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def _size(options: CrawlOptions) -> SampleSize | None:
    """What is read of a local checkpoint: null for everything."""
    return SAMPLE_SIZES[options.sample] if options.mode == "sampled" else None


def _known(store: Store) -> set[tuple[str, str, int]]:
    columns = ["checkpoint_id", "mode", "fingerprint_version"]
    rows = store.read("checkpoints", columns).to_pydict()
    return set(zip(*(rows[name] for name in columns), strict=True))
