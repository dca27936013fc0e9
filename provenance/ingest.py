"""The only wiring of the crawler to the store: visit checkpoints, commit fingerprints, keep every outcome."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from crawler.fingerprint import fingerprint
from crawler.plan import SAMPLE_SIZES, SampleSize
from indexer.rows import fingerprint_rows
from indexer.store import Store
from provenance.settings import CrawlOptions, HubListing
from provenance.sources import Found, Visit, listed_visits, local_source, local_visits, named_visits
from schemas import tables
from schemas.errors import CheckpointError, SkippedCheckpoint
from schemas.identity import REVISION_DIGITS, UNKNOWN_REVISION, CheckpointId
from schemas.records import Fingerprint, Outcome
from schemas.tables import FINGERPRINT_VERSION

if TYPE_CHECKING:
    from crawler.transport import HubTransport

log = logging.getLogger("provenance.crawl")

COMMIT_EVERY = 64
COMMIT_SECONDS = 10.0


Visited = tuple[Outcome, Fingerprint | None]


class Progress(Protocol):
    """What a crawl tells whoever watches it."""

    def found(self, total: int | None) -> None:
        """So many visits are to be made; null where nobody knows yet."""

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


def crawl(
    store: Store,
    sources: Sequence[str | os.PathLike[str]],
    options: CrawlOptions,
    listing: HubListing | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Crawl local folders, repos of a hub by name, and a hub's listing into a store.

    One bad checkpoint is one row of `outcomes`; what is done is committed every few seconds, and also when
    the crawl is interrupted.

    Raises:
        SourceError: a source cannot be used at all; nothing was crawled.
    """
    paths = [(source, local_source(source)) for source in sources]
    local = [visit for _, path in paths if path is not None for visit in local_visits(path)]
    names = [str(source) for source, path in paths if path is None]
    run = _Run(store, options, [*map(str, sources), *([str(listing)] if listing else [])], progress)
    if not names and listing is None:
        return run.crawl(local, local=len(local), expected=len(local))
    from crawler.hub_api import connect

    run.transport = connect(options.endpoint, connections=options.workers)
    named = named_visits(run.transport, names)
    listed = listed_visits(run.transport, listing) if listing else iter(())
    expected = len(local) + len(names) if listing is None else listing.limit
    try:
        return run.crawl(chain(local, named, listed), local=len(local), expected=expected)
    finally:
        run.transport.close()


def fingerprint_local(source: Path, options: CrawlOptions) -> list[Fingerprint]:
    """Fingerprint a local folder without storing it.

    Raises:
        SourceError: there is nothing there.
        CheckpointError: it cannot be fingerprinted.
    """
    return [_fingerprint(found, _size(options, hub=False)) for visit in local_visits(source) for found in visit.load()]


def fingerprint_named(repo: str, options: CrawlOptions) -> list[Fingerprint]:
    """Fingerprint a repo of a hub without storing it.

    Raises:
        SourceError: offline mode is on.
        CheckpointError: it cannot be read.
    """
    from crawler.hub_api import connect

    # Somebody is waiting for the answer: one try, and one line if it fails.
    transport = connect(options.endpoint, retries=0)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        visits = list(named_visits(transport, [repo]))
        return [_fingerprint(found, _size(options, hub=True)) for visit in visits for found in visit.load()]
    finally:
        transport.close()


def _fingerprint(found: Found, size: SampleSize | None) -> Fingerprint:
    with found.open() as (listed, reader):
        return fingerprint(listed, reader, size=size, now=datetime.now(UTC))


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
        self.known_repos = {
            (identity.repo_id, identity.revision, mode)
            for checkpoint_id, mode, version in self.known
            if version == FINGERPRINT_VERSION and not options.refingerprint
            for identity in [CheckpointId.parse(checkpoint_id)]
        }
        self.kept: set[tuple[str, str, int]] = set()
        self.buffer: list[Fingerprint] = []
        self.outcomes: list[Outcome] = []
        self.committed = time.monotonic()
        self.transport: HubTransport | None = None

    def crawl(self, visits: Iterable[Visit], *, local: int, expected: int | None) -> RunSummary:
        self.summary.listed = local
        if self.progress:
            self.progress.found(expected)
        self._commit(start=True)
        try:
            self._visit_all(iter(visits))
        except KeyboardInterrupt:
            self.summary.stopped = "interrupted"
        self.summary.seconds = time.monotonic() - self.clock
        self._commit(finish=True)
        self.store.write_views()
        return self.summary

    def _visit_all(self, visits: Iterator[Visit]) -> None:
        with ThreadPoolExecutor(self.options.workers, thread_name_prefix="crawl") as pool:
            pending: set[Future[list[Visited]]] = set()
            try:
                more = True
                while True:
                    while more and len(pending) < 2 * self.options.workers:
                        visit = self._next(visits)
                        more = visit is not None and self._within_budget()
                        if visit is not None and more:
                            self.summary.listed += visit.hub
                            pending.add(pool.submit(self._visit, visit))
                    if not pending:
                        return
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        pending.remove(future)
                        self._take(future.result())
            except KeyboardInterrupt:
                # What is being read is finished and kept; what only waits is dropped.
                running = [future for future in pending if not future.cancel()]
                for future in running:
                    self._take(future.result())
                raise

    def _next(self, visits: Iterator[Visit]) -> Visit | None:
        """The next visit; a listing that breaks off ends the crawl, but not what is under way."""
        try:
            return next(visits, None)
        except CheckpointError as error:
            self.summary.stopped = f"the listing broke off: {error}"
            return None

    def _within_budget(self) -> bool:
        options = self.options
        if options.max_bytes is not None and self.summary.bytes_read >= options.max_bytes:
            self.summary.stopped = "the byte budget is used up (--max-bytes)"
        elif options.max_time is not None and time.monotonic() - self.clock >= options.max_time:
            self.summary.stopped = "the time is up (--max-time)"
        return self.summary.stopped is None

    def _visit(self, visit: Visit) -> list[Visited]:
        """Fingerprint what a visit finds; nothing is raised."""
        revision = None if visit.revision == UNKNOWN_REVISION else visit.revision
        outcome = Outcome(visit.repo_id, revision, "done")
        if visit.hub and (visit.repo_id, (revision or "")[:REVISION_DIGITS], self._mode(visit)) in self.known_repos:
            message = f"{visit.repo_id}: already stored at this revision"
            return [(replace(outcome, status="skipped", stage="listing", message=message), None)]

        def visit_each() -> list[Visited]:
            return [
                visited
                for found in visit.load()
                for visited in _attempt(_outcome(found), partial(self._read, visit, found))
            ]

        return _attempt(outcome, visit_each)

    def _read(self, visit: Visit, found: Found) -> list[Visited]:
        began = time.monotonic()
        outcome = _outcome(found)
        if self._is_known(str(found.listed.identity), self._mode(visit)):
            message = f"{outcome.repo_id}: already stored at this revision"
            return [(replace(outcome, status="skipped", stage="plan", message=message), None)]
        result = _fingerprint(found, _size(self.options, hub=visit.hub))
        row = result.checkpoint
        spent = {"bytes_read": row["bytes_read"], "requests": row["requests"], "seconds": time.monotonic() - began}
        return [(replace(outcome, revision=row["revision"], **spent), result)]

    def _mode(self, visit: Visit) -> str:
        return "full" if _size(self.options, hub=visit.hub) is None else "sampled"

    def _is_known(self, checkpoint_id: str, mode: str) -> bool:
        key = (checkpoint_id, mode, FINGERPRINT_VERSION)
        return key in self.kept or (key in self.known and not self.options.refingerprint)

    def _take(self, visited: Sequence[Visited]) -> None:
        for outcome, result in visited:
            self._keep(outcome, result)
        # All that one visit found is committed together: a repo is either known whole or not at all.
        if len(self.buffer) >= COMMIT_EVERY or time.monotonic() - self.committed > COMMIT_SECONDS:
            self._commit()

    def _keep(self, outcome: Outcome, result: Fingerprint | None) -> None:
        summary = self.summary
        if outcome.status == "failed":
            summary.failed += 1
            summary.failures.append(outcome)
        elif outcome.status == "skipped":
            summary.skipped += 1
        if result is not None:
            row = result.checkpoint
            if self._is_known(row["checkpoint_id"], row["mode"]):
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
        traffic = self.transport.traffic if self.transport else None
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
        }


def storable(text: str) -> str:
    """Text that UTF-8 can hold: the name of a file may hold any byte, which Python shows as half a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def _size(options: CrawlOptions, *, hub: bool) -> SampleSize | None:
    """What is read of a checkpoint, null for everything: bands from a hub, all of a local folder, unless told."""
    mode = options.mode or ("sampled" if hub else "full")
    return SAMPLE_SIZES[options.sample] if mode == "sampled" else None


def _outcome(found: Found) -> Outcome:
    identity = found.listed.identity
    return Outcome(identity.repo_id, None if identity.revision == UNKNOWN_REVISION else identity.revision, "done")


def _attempt(outcome: Outcome, work: Callable[[], list[Visited]]) -> list[Visited]:
    """Do some work. The one place where any failure becomes an outcome; one that nobody foresaw is logged in full."""
    began = time.monotonic()
    try:
        return work()
    except CheckpointError as error:
        status = "skipped" if isinstance(error, SkippedCheckpoint) else "failed"
        failed = replace(outcome, status=status, stage=error.stage, error=type(error).__name__, message=str(error))
    except Exception as error:
        log.exception("%s: unexpected failure", outcome.repo_id)
        message = f"unexpected {type(error).__name__}: {error}"
        failed = replace(outcome, status="failed", stage="read", error=type(error).__name__, message=message)
    message = failed.message or ""
    if outcome.repo_id not in message:
        message = f"{outcome.repo_id}: {message}"
    return [(replace(failed, message=storable(message), seconds=time.monotonic() - began), None)]


def _known(store: Store) -> set[tuple[str, str, int]]:
    columns = ["checkpoint_id", "mode", "fingerprint_version"]
    rows = store.read("checkpoints", columns).to_pydict()
    return set(zip(*(rows[name] for name in columns), strict=True))
