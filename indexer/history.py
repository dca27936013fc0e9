"""The results of earlier crawls in a store: what is known, failed or forgotten, and the watermarks of listings.

The facts of a million attempts fit into a few megabytes; see `schemas.facts`. Failures are kept in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from provenance.indexer.store.rows import stored_fingerprint
from provenance.indexer.store.store import Store
from provenance.schemas.enums import Mode, Reason, Source, Status
from provenance.schemas.errors import StoreError
from provenance.schemas.facts import FactSet, fact
from provenance.schemas.identity import CheckpointId, short_revision
from provenance.schemas.records import EarlierFailure, Fingerprint, RepoFile
from provenance.schemas.tables import FINGERPRINT_VERSION

_KNOWN = f"""
select checkpoint_id, repo_id, revision, mode, source = '{Source.HUB}' from checkpoints where fingerprint_version = ?
"""
_EMPTY = f"""
select distinct repo_id, revision from outcomes where source = '{Source.HUB}' and reason = '{Reason.NO_WEIGHTS}'
    and revision is not null
"""
_FAILED = f"""
with tried as (
    select *, rank() over (partition by repo_id order by "at" desc, run_id desc) as age
    from outcomes
    where source = '{Source.HUB}' and epoch_us("at") <= ?  -- an attempt with a wrong clock must not hide later ones
), failed as (
    select repo_id, max(revision) as revision, max(reason) as reason, max(attempts) as attempts,
           epoch_us(min(next_attempt_at)) as again
    from tried
    where age = 1 and status = '{Status.FAILED}'
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
_LOCAL = f"""
select repo_id, subfolder, variant, mode, fingerprint_id, epoch_us(fingerprinted_at), total_bytes
from checkpoints where fingerprint_version = ? and source = '{Source.LOCAL}' and fingerprinted_at is not null
order by fingerprinted_at
"""
_DIGESTS = f"""
select fingerprint_id, mode, list_sort(list(coalesce(sha256, xet_hash))) as digests
from checkpoints join files using (fingerprint_id)
where fingerprint_version = ? and source = '{Source.HUB}' and path not like '%.json'
group by fingerprint_id, mode, n_files
having count(coalesce(sha256, xet_hash)) = n_files
"""
_SKEW = timedelta(days=1)
_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class _Read:
    """When a local checkpoint was fingerprinted last, and the bytes of its weights then."""

    fingerprint_id: str
    at: datetime
    size: int


class History:
    """A `schemas.protocols.CrawlHistory` of one store."""

    def __init__(self, store: Store, *, now: datetime) -> None:
        """Load the state of a store; outcomes dated more than a day after `now` are ignored."""
        self._store = store
        self._checkpoints, self._repos, self._empty = FactSet(), FactSet(), FactSet()
        self._failures: dict[str, EarlierFailure] = {}
        with store.connect() as connection:

            def rows(query: str, *values: object) -> Iterator[tuple[Any, ...]]:
                cursor = connection.execute(query, values)
                while batch := cursor.fetchmany(_BATCH):
                    yield from batch

            for checkpoint_id, repo, revision, mode, hub in rows(_KNOWN, FINGERPRINT_VERSION):
                self._checkpoints.add(fact(checkpoint_id, mode))
                if hub:  # a local copy may have only one of several checkpoints
                    self._repos.add(fact(repo, short_revision(revision), mode))
            self._files = _FingerprintsByDigests(rows(_DIGESTS, FINGERPRINT_VERSION))
            self._local = {
                row[:4]: _Read(row[4], datetime.fromtimestamp(row[5] / 1e6, UTC), row[6])
                for row in rows(_LOCAL, FINGERPRINT_VERSION)
            }
            for repo, revision in rows(_EMPTY):
                self._empty.add(fact(repo, short_revision(revision)))
            until = int((now + _SKEW).timestamp() * 1e6)
            for repo, revision, reason, attempts, again, listings in rows(_FAILED, until):
                due = None if again is None else datetime.fromtimestamp(again / 1e6, UTC)
                self._failures[repo] = EarlierFailure(
                    revision, _reason(reason), attempts, due, frozenset(listings or ())
                )
            self._forgotten = {repo for (repo,) in rows(_FORGOTTEN)}

    @property
    def failures(self) -> Mapping[str, EarlierFailure]:
        return self._failures

    @property
    def forgotten(self) -> set[str]:
        return self._forgotten

    def forget(self, repos: Iterable[str]) -> None:
        """Add repos that were removed from the store after the history was loaded."""
        self._forgotten.update(repos)

    def has_checkpoint(self, checkpoint_id: str, mode: Mode) -> bool:
        return fact(checkpoint_id, mode) in self._checkpoints

    def has_repo(self, repo_id: str, revision: str, mode: Mode) -> bool:
        return fact(repo_id, short_revision(revision), mode) in self._repos

    def has_no_weights(self, repo_id: str, revision: str) -> bool:
        return fact(repo_id, short_revision(revision)) in self._empty

    def fingerprint_of(self, files: Sequence[RepoFile], mode: Mode) -> Fingerprint | None:
        digests = [file.sha256 or file.xet_hash for file in files]
        return self._stored(None if None in digests else self._files.find(mode, sorted(map(str, digests))))

    def local_before(
        self, identity: CheckpointId, mode: Mode, *, changed_at: datetime, size: int
    ) -> Fingerprint | None:
        read = self._local.get((identity.repo_id, identity.subfolder, identity.variant, mode))
        if read is None or (changed_at <= read.at and size == read.size):
            return None
        return self._stored(read.fingerprint_id)

    def _stored(self, fingerprint_id: str | None) -> Fingerprint | None:
        try:
            return None if fingerprint_id is None else stored_fingerprint(self._store, fingerprint_id)
        except StoreError:
            return None  # forgotten, or compacted away, since the history was loaded

    def watermarks(self, listing: str) -> list[datetime]:
        rows = self._store.read("runs", ["listing", "watermark"]).to_pylist()
        return [row["watermark"] for row in rows if row["listing"] == listing and row["watermark"]]


class _FingerprintsByDigests:
    """Map from the digests of weight files to a fingerprint, in 36 bytes per fingerprint."""

    def __init__(self, rows: Iterable[tuple[str, str, Sequence[str]]]) -> None:
        """`rows` have fingerprint id, mode, and the sorted digests of all weight files."""
        kind = np.dtype([("fact", np.uint64), ("id", "S28")])
        known = np.fromiter(((fact(mode, *digests), id_.encode()) for id_, mode, digests in rows), kind)
        self._known = np.sort(known, order="fact")

    def find(self, mode: Mode, digests: Sequence[str]) -> str | None:
        wanted = fact(mode, *digests)
        place = int(np.searchsorted(self._known["fact"], np.uint64(wanted)))
        if place == len(self._known) or int(self._known["fact"][place]) != wanted:
            return None
        return bytes(self._known["id"][place]).decode()


def _reason(stored: str | None) -> Reason | None:
    """A stored reason; `unexpected` if this version does not know it."""
    try:
        return None if stored is None else Reason(stored)
    except ValueError:
        return Reason.UNEXPECTED
