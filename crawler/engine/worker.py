"""Do one task: fingerprint its checkpoints, and turn every failure into an outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from threading import Event

from provenance.crawler.engine.allowance import Allowance
from provenance.crawler.engine.frontier import Frontier
from provenance.crawler.engine.options import CrawlOptions
from provenance.crawler.engine.tasks import CrawlTask
from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.hub.answers import AbandonedError
from provenance.schemas.enums import Reason, Stage, Status
from provenance.schemas.errors import CheckpointError, SkippedCheckpoint
from provenance.schemas.identity import UNKNOWN_REVISION
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import Fingerprint, ListedCheckpoint, Outcome

log = logging.getLogger("provenance.crawl")

Result = tuple[Outcome, Fingerprint | None]


class Worker:
    """Does the tasks of one crawl; thread-safe."""

    def __init__(self, options: CrawlOptions, frontier: Frontier, allowance: Allowance) -> None:
        self._options, self._frontier, self._allowance, self._abandoned = options, frontier, allowance, Event()

    def abandon(self) -> None:
        """End every running task at its next read, with what it has finished."""
        self._abandoned.set()

    def work(self, task: CrawlTask) -> list[Result]:
        """Fingerprint the checkpoints of a task, as far as the allowance lasts. Raises nothing.

        Returns:
            a result for each checkpoint; empty if the crawl was stopped during the first. If checkpoints are left, the
            last result says so, and makes the repo due in the next crawl.
        """
        outcome = Outcome(task.repo_id, _known(task.revision), Status.DONE, source=task.source)
        results: list[Result] = []

        def work() -> list[Result]:
            checkpoints = task.checkpoints()
            for number, listed in enumerate(checkpoints):
                if number and (why := self._allowance.exhausted()):
                    return [*results, (_unfinished(outcome, number, len(checkpoints), why), None)]
                identity = listed.identity
                one = replace(outcome, repo_id=identity.repo_id, revision=_known(identity.revision))
                try:
                    results.extend(_attempt(one, partial(self._read, task, listed, one)))
                except AbandonedError:
                    left = _unfinished(outcome, number, len(checkpoints), "the crawl was stopped")
                    return [*results, (left, None)] if results else []
            return results

        try:
            return _attempt(outcome, work)
        except AbandonedError:
            return []

    def _read(self, task: CrawlTask, listed: ListedCheckpoint, outcome: Outcome) -> list[Result]:
        began = time.monotonic()
        before = None
        if skip := self._frontier.decide(task, str(listed.identity)):
            before = self._frontier.changed(task, listed)
            message = f"{outcome.repo_id}: {skip}"
            known = replace(outcome, status=Status.SKIPPED, stage=Stage.PLAN, reason=Reason.KNOWN, message=message)
            if before is None:
                return [(known, None)]
            # The commit of its listing is no more that of the files: their content names the revision.
            listed = replace(listed, identity=replace(listed.identity, revision=UNKNOWN_REVISION))
        with task.open(listed) as (complete, reader):
            try:
                result = fingerprint(
                    self._options.stated(complete),
                    _Abandonable(reader, self._abandoned),
                    size=self._options.sample_size(task.source),
                    now=datetime.now(UTC),
                    earlier=self._frontier.earlier(task, complete),
                )
            finally:
                self._allowance.spend(reader.bytes_read)
        if before is not None and set(before.tensors) == set(result.tensors):
            return [(known, None)]  # files that were only touched
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


def _unfinished(outcome: Outcome, done: int, total: int, why: str) -> Outcome:
    return replace(
        outcome,
        status=Status.FAILED,
        stage=Stage.READ,
        reason=Reason.UNFINISHED,
        message=f"{outcome.repo_id}: {why} after {done:,} of its {total:,} checkpoints; the next crawl goes on",
    )


class _Abandonable:
    """A `TensorReader` that stops reading once the crawl is abandoned."""

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


def read_task(task: CrawlTask, options: CrawlOptions) -> list[Fingerprint]:
    """Fingerprint the checkpoints of a task outside of a crawl, known or not.

    Raises:
        CheckpointError: one of them cannot be fingerprinted.
    """
    size, fingerprints = options.sample_size(task.source), []
    for listed in task.checkpoints():
        with task.open(listed) as (complete, reader):
            fingerprints.append(fingerprint(options.stated(complete), reader, size=size, now=datetime.now(UTC)))
    return fingerprints


def storable(text: str) -> str:
    """Text that can be encoded as UTF-8: Python decodes arbitrary bytes in file names as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _known(revision: str | None) -> str | None:
    return None if revision == UNKNOWN_REVISION else revision


def _attempt(outcome: Outcome, work: Callable[[], list[Result]]) -> list[Result]:
    """Do some work; a failure becomes an outcome here and nowhere else. An unexpected one is logged with traceback.

    Raises:
        AbandonedError: the crawl was stopped, which is not an outcome.
    """
    began = time.monotonic()
    try:
        return work()
    except AbandonedError:
        raise
    except CheckpointError as error:
        status = Status.SKIPPED if isinstance(error, SkippedCheckpoint) else Status.FAILED
        stage, reason, message = error.stage, error.reason, str(error)
        kind = type(error).__name__
    except Exception as error:
        log.exception("%s: unexpected failure", outcome.repo_id)
        kind = type(error).__name__
        status, stage, reason, message = Status.FAILED, Stage.READ, Reason.UNEXPECTED, f"unexpected {kind}: {error}"
    if outcome.repo_id not in message:
        message = f"{outcome.repo_id}: {message}"
    seconds = time.monotonic() - began
    failed = replace(
        outcome, status=status, stage=stage, error=kind, reason=reason, message=storable(message), seconds=seconds
    )
    return [(failed, None)]
