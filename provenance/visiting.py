"""One visit: read what is there, and turn whatever goes wrong into an outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from threading import Event

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.hub.answers import AbandonedError
from provenance.crawler.plan import SAMPLE_SIZES, SampleSize
from provenance.ledger import Ledger
from provenance.schemas.errors import CheckpointError, SkippedCheckpoint
from provenance.schemas.identity import UNKNOWN_REVISION
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import Fingerprint, Outcome
from provenance.settings import CrawlOptions
from provenance.sources import Found, Visit

log = logging.getLogger("provenance.crawl")

Visited = tuple[Outcome, Fingerprint | None]


class Visitor:
    """Makes the visits of one crawl, from any thread."""

    def __init__(self, options: CrawlOptions, ledger: Ledger) -> None:
        self._options, self._ledger, self._abandoned = options, ledger, Event()

    def abandon(self) -> None:
        """Let every visit that is under way end without an outcome, at its next read."""
        self._abandoned.set()

    def visit(self, visit: Visit) -> list[Visited]:
        """Fingerprint what a visit finds. Nothing is raised; empty where the crawl was stopped meanwhile."""
        revision = None if visit.revision == UNKNOWN_REVISION else visit.revision
        outcome = Outcome(visit.repo_id, revision, "done", source="hub" if visit.hub else "local")

        def visit_each() -> list[Visited]:
            visited = []
            for found in visit.load():
                one = _outcome(outcome, found)
                visited += _attempt(one, partial(self._read, visit, found, one))
            return visited

        try:
            return _attempt(outcome, visit_each)
        except AbandonedError:
            return []

    def _read(self, visit: Visit, found: Found, outcome: Outcome) -> list[Visited]:
        began = time.monotonic()
        if self._ledger.has(str(found.listed.identity), mode_of(self._options, hub=visit.hub)):
            message = f"{outcome.repo_id}: already stored at this revision"
            return [(replace(outcome, status="skipped", stage="plan", reason="known", message=message), None)]
        mode = mode_of(self._options, hub=visit.hub)
        with found.open() as (listed, reader):
            result = fingerprint(
                listed,
                _Abandonable(reader, self._abandoned),
                size=sample_size(self._options, hub=visit.hub),
                now=datetime.now(UTC),
                earlier=self._ledger.earlier(listed.files, mode),
            )
        row = result.checkpoint
        done = replace(
            outcome,
            repo_id=row.repo_id,
            revision=row.revision,
            bytes_read=row.bytes_read,
            requests=row.requests,
            seconds=time.monotonic() - began,
        )
        return [(done, result)]


class _Abandonable:
    """A `TensorReader` that reads no further once the crawl was abandoned."""

    def __init__(self, reader: TensorReader, abandoned: Event) -> None:
        self._reader, self._abandoned = reader, abandoned

    @property
    def bytes_read(self) -> int:
        return self._reader.bytes_read

    @property
    def requests(self) -> int:
        return self._reader.requests

    def size(self, path: str) -> int:
        return self._reader.size(path)

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes | memoryview]:
        for data in self._reader.read(path, ranges):
            if self._abandoned.is_set():
                raise AbandonedError("the crawl was abandoned")
            yield data


def sample_size(options: CrawlOptions, *, hub: bool) -> SampleSize | None:
    """What is read of a checkpoint, null for everything: bands from a hub, all of a local folder, unless told."""
    return SAMPLE_SIZES[options.sample] if mode_of(options, hub=hub) == "sampled" else None


def mode_of(options: CrawlOptions, *, hub: bool) -> str:
    """`sampled` or `full`."""
    return options.mode or ("sampled" if hub else "full")


def read_found(found: Found, size: SampleSize | None) -> Fingerprint:
    """Fingerprint one checkpoint.

    Raises:
        CheckpointError: it cannot be fingerprinted.
    """
    with found.open() as (listed, reader):
        return fingerprint(listed, reader, size=size, now=datetime.now(UTC))


def storable(text: str) -> str:
    """Text that UTF-8 can hold: the name of a file may hold any byte, which Python shows as half a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def _outcome(visited: Outcome, found: Found) -> Outcome:
    identity = found.listed.identity
    revision = None if identity.revision == UNKNOWN_REVISION else identity.revision
    return replace(visited, repo_id=identity.repo_id, revision=revision)


def _attempt(outcome: Outcome, work: Callable[[], list[Visited]]) -> list[Visited]:
    """Do some work. The one place where any failure becomes an outcome; one that nobody foresaw is logged in full.

    Raises:
        AbandonedError: the crawl was stopped, which is no outcome.
    """
    began = time.monotonic()
    try:
        return work()
    except AbandonedError:
        raise
    except CheckpointError as error:
        status, stage, reason, message = "failed", error.stage, error.reason, str(error)
        if isinstance(error, SkippedCheckpoint):
            status = "skipped"
        kind = type(error).__name__
    except Exception as error:
        log.exception("%s: unexpected failure", outcome.repo_id)
        kind = type(error).__name__
        status, stage, reason, message = "failed", "read", "unexpected", f"unexpected {kind}: {error}"
    if outcome.repo_id not in message:
        message = f"{outcome.repo_id}: {message}"
    seconds = time.monotonic() - began
    failed = replace(
        outcome,
        status=status,
        stage=stage,
        error=kind,
        reason=reason,
        message=storable(message),
        seconds=seconds,
    )
    return [(failed, None)]
