"""What earlier visits settled: which repos need no visit at all, and which failed ones are due again.

The facts of a million visits fit into a few megabytes: one that is only ever looked up is kept as 64 bits of a digest
(that a million lookups among a million facts find one by mistake has a chance of 1 in 10 million). Failures are
kept whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

import numpy as np

from provenance.indexer.store.rows import stored_fingerprint
from provenance.indexer.store.store import Store
from provenance.retries import next_attempt, outlasts_revision
from provenance.schemas.errors import StoreError
from provenance.schemas.identity import REVISION_DIGITS
from provenance.schemas.records import Fingerprint, Outcome, RepoFile
from provenance.schemas.tables import FINGERPRINT_VERSION

NO_WEIGHTS = "no-weights"

_KNOWN = "select checkpoint_id, repo_id, revision, mode, source = 'hub' from checkpoints where fingerprint_version = ?"
_EMPTY = f"select distinct repo_id, revision from outcomes where source = 'hub' and reason = '{NO_WEIGHTS}'"
_FAILED = """
with visits as (
    select *, rank() over (partition by repo_id order by "at" desc, run_id desc) as age
    from outcomes
    where source = 'hub' and epoch_us("at") <= ?  -- a wrong clock must not outrank every later visit
), failed as (
    select repo_id, max(revision) as revision, max(reason) as reason, max(attempts) as attempts,
           epoch_us(min(next_attempt_at)) as again
    from visits
    where age = 1 and status = 'failed'
    group by repo_id
), listed as (
    select repo_id, list(distinct runs.listing) as listings
    from outcomes join runs using (run_id)
    where runs.listing is not null and repo_id in (select repo_id from failed)
    group by repo_id
)
select repo_id, revision, reason, attempts, again, listings from failed left join listed using (repo_id)
"""
_FORGOTTEN = "select repo_id from tombstones where repo_id not in (select repo_id from checkpoints)"
_DIGESTS = """
select fingerprint_id, mode, list_sort(list(coalesce(sha256, xet_hash))) as digests
from checkpoints join files using (fingerprint_id)
where fingerprint_version = ? and source = 'hub' and path like '%.safetensors'
group by fingerprint_id, mode, n_files
having count(coalesce(sha256, xet_hash)) = n_files
"""
_SKEW = timedelta(days=1)
_BATCH = 10_000
_NEWEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Failure:
    """The last visit to a repo, which failed; `listings` are the keys of the walks that ever met the repo."""

    revision: str | None
    reason: str | None
    attempts: int
    next_attempt_at: datetime | None
    listings: tuple[str, ...]


class Ledger:
    """Looked up before every visit, told of every visit.

    Attributes:
        failures: repos whose last visit failed.
        forgotten: repos that were taken out of the store and not crawled by name since; listings pass over them.
    """

    def __init__(self, store: Store, *, now: datetime, refingerprint: bool = False, retry_failed: bool = False) -> None:
        """Load the state of a store.

        Args:
            now: the time that failures are due by.
            refingerprint: what is stored already is not known.
            retry_failed: every failure is due.
        """
        self._store, self._now, self._retry_failed = store, now, retry_failed
        self.failures: dict[str, Failure] = {}
        self.forgotten: set[str] = set()
        self._fingerprints, self._repos, self._empty, self._visited = _Facts(), _Facts(), _Facts(), _Facts()
        self._files = _Files(())
        with store.connect() as connection:

            def rows(query: str, *values: object) -> Iterator[tuple[Any, ...]]:
                cursor = connection.execute(query, values)
                while batch := cursor.fetchmany(_BATCH):
                    yield from batch

            if not refingerprint:
                for checkpoint_id, repo, revision, mode, hub in rows(_KNOWN, FINGERPRINT_VERSION):
                    self._fingerprints.add(_fact(checkpoint_id, mode))
                    if hub:  # a local copy may be of one checkpoint of several
                        self._repos.add(_fact(repo, revision, mode))
                self._files = _Files(rows(_DIGESTS, FINGERPRINT_VERSION))
            if not refingerprint and not retry_failed:
                for repo, revision in rows(_EMPTY):
                    self._empty.add(_fact(repo, _short(revision)))
            until = int((now + _SKEW).timestamp() * 1e6)
            for repo, revision, reason, attempts, again, listings in rows(_FAILED, until):
                due = None if again is None else datetime.fromtimestamp(again / 1e6, UTC)
                self.failures[repo] = Failure(revision, reason, attempts, due, tuple(listings or ()))
            self.forgotten = {repo for (repo,) in rows(_FORGOTTEN)}

    def has(self, checkpoint_id: str, mode: str) -> bool:
        """Whether a fingerprint of this checkpoint is stored, or was made in this crawl."""
        return _fact(checkpoint_id, mode) in self._fingerprints

    def earlier(self, files: Sequence[RepoFile], mode: str) -> Fingerprint | None:
        """A stored fingerprint of weight files with just these digests; null where there is none."""
        digests = [file.sha256 or file.xet_hash for file in files]
        fingerprint_id = None if None in digests else self._files.get(mode, sorted(map(str, digests)))
        try:
            return None if fingerprint_id is None else stored_fingerprint(self._store, fingerprint_id)
        except StoreError:
            return None  # forgotten, or compacted away, since the ledger was loaded

    def settled(self, repo_id: str, revision: str | None, mode: str) -> str | None:
        """Why a listed repo needs no visit, in words; null where it does."""
        if _fact(repo_id) in self._visited:
            return "visited in this crawl already"
        if repo_id in self.forgotten:
            return "taken out of the store; crawl it by name to have it back"
        failure = self.failures.get(repo_id)
        if failure is not None:
            due = self._is_due(failure)
            if not due and (outlasts_revision(failure.reason) or _short(failure.revision) == _short(revision)):
                return f"failed ({failure.reason}) and not due again; see --retry-failed"
        elif revision is not None:
            if _fact(repo_id, _short(revision), mode) in self._repos:
                return "already stored at this revision"
            if _fact(repo_id, _short(revision)) in self._empty:
                return "nothing to read at this revision"
        return None

    def due(self, listing: str | None) -> list[str]:
        """Repos whose failed visit is due again: those that one walk ever met, or all."""
        return [
            repo
            for repo, failure in self.failures.items()
            if (listing is None or listing in failure.listings)
            and self._is_due(failure)
            and repo not in self.forgotten
            and _fact(repo) not in self._visited
        ]

    def schedule(self, outcome: Outcome) -> Outcome:
        """The outcome of a visit with the number of failed ones in a row, and when the next one is due."""
        if outcome.status != "failed" or outcome.source != "hub":
            return outcome
        before = self.failures.get(outcome.repo_id)
        attempts, revision = (before.attempts + 1, before.revision) if before else (1, None)
        return replace(
            outcome,
            revision=outcome.revision or revision,
            attempts=attempts,
            next_attempt_at=next_attempt(outcome.reason, attempts, self._now),
        )

    def note_visit(self, repo_id: str) -> None:
        """Take in that a repo was visited: it is not visited again in this crawl, listed once more or failed."""
        self._visited.add(_fact(repo_id))

    def note_fingerprint(self, checkpoint_id: str, mode: str) -> None:
        """Take in a fingerprint that was made."""
        self._fingerprints.add(_fact(checkpoint_id, mode))

    def _is_due(self, failure: Failure) -> bool:
        again = failure.next_attempt_at
        return self._retry_failed or (again is not None and again <= self._now)


class _Facts:
    """A set of 64-bit numbers, 8 bytes each: sorted, but for the newest."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._newest: set[int] = set()

    def add(self, fact: int) -> None:
        self._newest.add(fact)
        if len(self._newest) >= _NEWEST:
            self._sorted = np.union1d(self._sorted, np.fromiter(self._newest, np.uint64))
            self._newest.clear()

    def __contains__(self, fact: int) -> bool:
        if fact in self._newest:
            return True
        known = self._sorted  # another thread may put a larger one in its place
        place = int(np.searchsorted(known, np.uint64(fact)))
        return place < len(known) and int(known[place]) == fact


class _Files:
    """Which fingerprint is of files with certain digests: 36 bytes each."""

    def __init__(self, rows: Iterable[tuple[str, str, Sequence[str]]]) -> None:
        """`rows` hold fingerprint id, mode, and the digests of all weight files in order."""
        kind = np.dtype([("fact", np.uint64), ("id", "S28")])
        found = np.fromiter(((_fact(mode, *digests), id_.encode()) for id_, mode, digests in rows), kind)
        self._found = np.sort(found, order="fact")

    def get(self, mode: str, digests: Sequence[str]) -> str | None:
        fact = _fact(mode, *digests)
        place = int(np.searchsorted(self._found["fact"], np.uint64(fact)))
        if place == len(self._found) or int(self._found["fact"][place]) != fact:
            return None
        return bytes(self._found["id"][place]).decode()


def _fact(*parts: object) -> int:
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def _short(revision: object) -> str:
    return str(revision)[:REVISION_DIGITS]
