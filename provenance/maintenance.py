"""Maintenance of a store: forgetting repos, importing another store, compaction, and the integrity check."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from provenance.indexer.store.store import Store
from provenance.names import hub_name, similar_repos
from provenance.schemas.errors import UnknownModelError
from provenance.schemas.figures import CompactionFigures, RepoFigures
from provenance.schemas.tabular import Rows

if TYPE_CHECKING:
    from provenance.indexer.store.transfer import Taken
    from provenance.schemas.protocols import Advance


class Maintained:
    """What can be done to a store, apart from crawling and indexing. Base of `Database`."""

    store: Store

    def refresh(self) -> None:
        """Drop everything that was read: the next query sees the store as it is then."""

    def mentions(self, repos: Iterable[str]) -> Rows[RepoFigures]:
        """The number of checkpoints of each given repo. A repo with only a failed attempt has none.

        Raises:
            UnknownModelError: the store does not mention one of them.
        """
        return _figures(_mentions(self.store, repos))

    def forget(self, repos: Iterable[str]) -> Rows[RepoFigures]:
        """Hide repos from now on; `index` and `compact` then remove their data.

        A repo that is crawled again by name comes back.

        Returns:
            how many checkpoints of each were forgotten.

        Raises:
            UnknownModelError: the store does not mention one of them; none was forgotten.
        """
        from provenance.query.lineage.refresh import invalidate_verdicts
        from provenance.schemas import tables

        found = _mentions(self.store, repos)
        now = datetime.now(UTC)
        rows: list[dict[str, object]] = [
            # Later than every row of the repo: the clock that wrote them may have been ahead.
            {"repo_id": repo, "forgotten_at": max(now, newest + timedelta(microseconds=1)) if newest else now}
            for repo, (_, newest) in found.items()
        ]
        try:
            invalidate_verdicts(self.store, found)
            self.store.commit({"tombstones": tables.from_rows("tombstones", rows)})
            self.store.write_views()
        finally:
            self.refresh()
        return _figures(found)

    def compact(self, advance: Advance | None = None) -> CompactionFigures:
        """Remove forgotten rows, merge small parts, and delete unused files."""
        from provenance.indexer.build import remove_unused_generations
        from provenance.query.catalogue import open_live

        store = self.store
        before = store.manifest()
        try:
            dropped = store.purge()
            after = store.compact(advance=advance)
            remove_unused_generations(store)
            store.write_views()
        finally:
            self.refresh()
        generation = open_live(store)
        return CompactionFigures(
            parts_before=sum(len(parts) for parts in before.parts.values()),
            parts=sum(len(parts) for parts in after.parts.values()),
            rows_dropped=sum(dropped.values()),
            checkpoints_dropped=dropped.get("checkpoints", 0),
            still_indexed=len(generation.hidden) if generation else 0,
        )

    def take_over(self, store: str | os.PathLike[str], advance: Advance | None = None) -> Taken:
        """Copy the checkpoints of another store that this one does not have, a few hundred per commit.

        Raises:
            StoreFormatError: it was written by a version with different fingerprints; nothing was copied.
            StoreBusyError: a crawl, or another import, is writing to this store.
            StoreError: there is no store, or it is this one.
        """
        from provenance.indexer.store import transfer
        from provenance.indexer.store.lease import crawl_lease

        source = Store.open(Path(store))
        try:
            with crawl_lease(self.store.path):
                taken = transfer.take_over(self.store, source, advance)
            self.store.write_views()
        finally:
            self.refresh()
        return taken

    def verify(self, advance: Advance | None = None) -> list[str]:
        """Problems of the store and its index, one line each; empty if there are none.

        Reads every byte of every live part and of the live index, in pieces.
        """
        from provenance.indexer.check_index import index_problems

        return [*self.store.verify(advance), *index_problems(self.store.index_path)]


def _figures(found: Mapping[str, tuple[int, datetime | None]]) -> Rows[RepoFigures]:
    return Rows(RepoFigures, (RepoFigures(repo, checkpoints) for repo, (checkpoints, _) in found.items()))


def _mentions(store: Store, repos: Iterable[str]) -> dict[str, tuple[int, datetime | None]]:
    from provenance.query.mentions import mentions

    asked = list(dict.fromkeys(map(hub_name, repos)))
    with store.connect() as connection:
        found = mentions(connection, asked)
    if unknown := [repo for repo in asked if repo not in found]:
        similar = "".join(similar_repos(store, repo) for repo in unknown[:1])
        raise UnknownModelError(
            f"{', '.join(unknown)}: not in the store ({store.path}), or forgotten already; nothing was changed{similar}"
        )
    return found
