"""The tasks of a crawl in their order, and the one decision whether something is known already."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING

from provenance.crawler.engine.incremental import ListingPlan
from provenance.crawler.engine.options import CrawlOptions
from provenance.crawler.engine.retry_policy import is_due, outlasts_revision, scheduled
from provenance.crawler.engine.tasks import CrawlRequest, CrawlTask, listed_tasks, named_tasks
from provenance.schemas.enums import Source
from provenance.schemas.errors import CheckpointError
from provenance.schemas.facts import FactSet, fact
from provenance.schemas.identity import short_revision
from provenance.schemas.protocols import CrawlHistory
from provenance.schemas.records import Fingerprint, ListedCheckpoint, Outcome

if TYPE_CHECKING:
    from provenance.crawler.hub.transport import HubTransport

log = logging.getLogger("provenance.crawl")

_SKIP_BATCH = 500  # skipped repos reported together: half a page


class Skip(StrEnum):
    """Why something is not crawled."""

    TAKEN = "visited in this crawl already"
    FORGOTTEN = "taken out of the store; crawl it by name to have it back"
    NOT_DUE = "failed and not due again; see --retry-failed"
    STORED = "already stored at this revision"
    NO_WEIGHTS = "nothing to read at this revision"


class Frontier:
    """The tasks of one crawl: the requested checkpoints that are not known yet.

    Attributes:
        expected: number of tasks; null if unknown.
        n_local: number of local tasks, which is known from the start.
    """

    def __init__(
        self,
        request: CrawlRequest,
        options: CrawlOptions,
        history: CrawlHistory,
        *,
        now: datetime,
        transport: HubTransport | None = None,
        plan: ListingPlan | None = None,
    ) -> None:
        """Set up; nothing is listed yet.

        Args:
            request: local tasks, and names of repos.
            options: of the crawl.
            history: of earlier crawls.
            now: failures whose next attempt is not after this time are due.
            transport: to the hub, null if none is needed.
            plan: of the hub's listing, null if it is not crawled.
        """
        self._request, self._options, self._history, self._now = request, options, history, now
        self._transport, self._plan = transport, plan
        # What this crawl adds to the history: hub repos that were started, and new fingerprints.
        self._taken, self._made = FactSet(), FactSet()
        self.n_local = len(request.local)
        self.expected = plan.listing.limit if plan else self.n_local + len(request.names)

    def tasks(self) -> Iterator[CrawlTask | int]:
        """Tasks to do, named and listed ones; and integers, the numbers of tasks skipped in between.

        An unchanged hub has a million repos to skip: passing on each would cost more than deciding on it.
        """
        tasks: list[Iterable[CrawlTask]] = [self._request.local]
        if self._transport is not None:
            tasks.append(named_tasks(self._transport, self._request.names))
            if self._plan is not None:
                tasks.append(listed_tasks(self._transport, self._plan.listing))
        skipped = 0
        try:
            for task in chain.from_iterable(tasks):
                skip = self._skips(task)
                skipped += skip
                if skipped and (not skip or skipped == _SKIP_BATCH):
                    yield skipped
                    skipped = 0
                if not skip:
                    yield task
        except CheckpointError:  # the listing broke off
            if skipped:
                yield skipped
            raise
        if skipped:
            yield skipped

    def retries(self) -> Iterator[CrawlTask]:
        """Failed repos that are due again and that `tasks` did not include; call it when those are done."""
        plan, failures = self._plan, self._history.failures
        everything = self._options.retry_failed or (plan is not None and plan.whole)
        if self._transport is None or not (everything or (plan is not None and plan.incremental)):
            return
        repos = (repo for repo, failure in failures.items() if everything or (plan and plan.key in failure.listings))
        # The user did not name them in this crawl: like listed ones, forgotten repos are skipped.
        for task in named_tasks(self._transport, repos, named=False):
            if not self._skips(task):
                yield task

    def decide(self, task: CrawlTask, checkpoint_id: str | None = None) -> Skip | None:
        """Decide whether to skip a task, or one of its checkpoints.

        Args:
            task: the task, of which nothing was read yet.
            checkpoint_id: one of its checkpoints, once its listing or its content has identified it.

        Returns:
            the reason to skip it; null if it is to be crawled.
        """
        history, fresh, mode = self._history, self._options.refingerprint, self._options.mode_of(task.source)
        if checkpoint_id is not None:
            known = not fresh and history.has_checkpoint(checkpoint_id, mode)
            return Skip.STORED if known or fact(checkpoint_id, mode) in self._made else None
        if task.named:
            return None
        if fact(task.repo_id) in self._taken:
            return Skip.TAKEN
        if task.repo_id in history.forgotten:
            return Skip.FORGOTTEN
        failure = history.failures.get(task.repo_id)
        if failure is not None:
            due = self._options.retry_failed or is_due(failure, self._now)
            changed = task.revision is not None and not _same(task.revision, failure.revision)
            return None if due or (changed and not outlasts_revision(failure.reason)) else Skip.NOT_DUE
        if task.revision is None or fresh:
            return None
        if history.has_repo(task.repo_id, task.revision, mode):
            return Skip.STORED
        if not self._options.retry_failed and history.has_no_weights(task.repo_id, task.revision):
            return Skip.NO_WEIGHTS
        return None

    def changed(self, task: CrawlTask, listed: ListedCheckpoint) -> Fingerprint | None:
        """The stored fingerprint of a local checkpoint whose files changed since; null for all others."""
        if listed.changed_at is None:
            return None
        size = sum(file.size for file in listed.files if file.path in listed.weight_files)
        mode = self._options.mode_of(task.source)
        return self._history.local_before(listed.identity, mode, changed_at=listed.changed_at, size=size)

    def take_in(self, task: CrawlTask, fingerprint: Fingerprint) -> Skip | None:
        """Decide on a new fingerprint, whose id may be known only after reading, and record it as known."""
        checkpoint_id = fingerprint.checkpoint.checkpoint_id
        skip = self.decide(task, checkpoint_id)
        self._made.add(fact(checkpoint_id, self._options.mode_of(task.source)))
        return skip

    def earlier(self, task: CrawlTask, listed: ListedCheckpoint) -> Fingerprint | None:
        """A stored fingerprint of the same files; null if there is none, or if they are to be read again."""
        if self._options.refingerprint:
            return None
        return self._history.fingerprint_of(listed.files, self._options.mode_of(task.source))

    def scheduled(self, outcome: Outcome) -> Outcome:
        """The outcome, with the time of the next attempt if it failed."""
        return scheduled(outcome, self._history.failures.get(outcome.repo_id), self._now)

    def _skips(self, task: CrawlTask) -> bool:
        """Decide on a task and record it as started, so that it is skipped if it is listed again."""
        skip = self.decide(task)
        if skip is not None:
            log.debug("%s: %s", task.repo_id, skip)
        elif task.source is Source.HUB:
            self._taken.add(fact(task.repo_id))
        return skip is not None


def _same(revision: str, other: str | None) -> bool:
    return other is not None and short_revision(revision) == short_revision(other)
