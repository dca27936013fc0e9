"""Maintenance of a store: forgetting repos, importing another store, and compaction."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from provenance.indexer.store.store import Store
from provenance.schemas.errors import UnknownModelError
from provenance.schemas.figures import CompactionFigures, RepoFigures
from provenance.schemas.tabular import Rows

if TYPE_CHECKING:
    from provenance.indexer.store.transfer import Taken


def mentions(store: Store, repos: Iterable[str]) -> Rows[RepoFigures]:
    """The number of checkpoints that a store has of each given repo; see `Database.mentions`."""
    return _figures(_mentions(store, repos))


def forget(store: Store, repos: Iterable[str]) -> Rows[RepoFigures]:
    """Hide repos from now on; see `Database.forget`."""
    from provenance.query.lineage.refresh import invalidate_verdicts
    from provenance.schemas import tables

    found = _mentions(store, repos)
    now = datetime.now(UTC)
    rows: list[dict[str, object]] = [
        # Later than every row of the repo: the clock that wrote them may have been ahead.
        {"repo_id": repo, "forgotten_at": max(now, newest + timedelta(microseconds=1)) if newest else now}
        for repo, (_, newest) in found.items()
    ]
    invalidate_verdicts(store, found)
    store.commit({"tombstones": tables.from_rows("tombstones", rows)})
    store.write_views()
    return _figures(found)


def compact(store: Store) -> CompactionFigures:
    """Compact a store and clean up its index; see `Database.compact`."""
    from provenance.indexer.build import remove_unused_generations
    from provenance.query.catalogue import open_live

    before = store.manifest()
    dropped = store.purge()
    after = store.compact()
    remove_unused_generations(store)
    store.write_views()
    generation = open_live(store)
    return CompactionFigures(
        parts_before=sum(len(parts) for parts in before.parts.values()),
        parts=sum(len(parts) for parts in after.parts.values()),
        rows_dropped=sum(dropped.values()),
        checkpoints_dropped=dropped.get("checkpoints", 0),
        still_indexed=len(generation.hidden) if generation else 0,
    )


def take_over(store: Store, other: str | os.PathLike[str]) -> Taken:
    """Copy the checkpoints of another store that this one does not have; see `Database.take_over`."""
    from provenance.indexer.store import transfer
    from provenance.indexer.store.lease import crawl_lease

    source = Store.open(Path(other))
    with crawl_lease(store.path):
        taken = transfer.take_over(store, source)
    store.write_views()
    return taken


def _figures(found: Mapping[str, tuple[int, datetime | None]]) -> Rows[RepoFigures]:
    return Rows(RepoFigures, (RepoFigures(repo, checkpoints) for repo, (checkpoints, _) in found.items()))


def _mentions(store: Store, repos: Iterable[str]) -> dict[str, tuple[int, datetime | None]]:
    from provenance.query.mentions import mentions

    asked = list(dict.fromkeys(repos))
    with store.connect() as connection:
        found = mentions(connection, asked)
    if unknown := [repo for repo in asked if repo not in found]:
        raise UnknownModelError(
            f"{', '.join(unknown)}: not in the store ({store.path}), or forgotten already; nothing was changed"
        )
    return found
