"""Which rows the tombstones of a store hide: one rule, as an Arrow mask and as SQL.

A row is forgotten if there is a tombstone for its repo and the row is older than the tombstone, or of unknown age. A
repo that is crawled again later has newer rows, which stay. The rows of `schemas.tables.FINGERPRINT_TABLES` are
forgotten with their fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from provenance.indexer.store.manifest import Manifest
from provenance.indexer.store.parts import read_part
from provenance.schemas.tables import FINGERPRINT_TABLES, empty

TOMBSTONES = "tombstones"

DATED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "checkpoints": (("repo_id",), "fingerprinted_at"),
    "outcomes": (("repo_id",), "at"),
    "lineage": (("child", "parent"), "detected_at"),
    "verdicts": (("repo_id",), "examined_at"),
}
"""Tables whose rows contain repo ids: the columns that do, and the column with the time of the row."""

FORGOTTEN_REPOS = f"SELECT repo_id, max(forgotten_at) AS forgotten_at FROM {TOMBSTONES} GROUP BY repo_id"
"""SQL with one row for every forgotten repo."""


def has_tombstones(manifest: Manifest) -> bool:
    """Whether any repo was ever forgotten; reads nothing."""
    return any(part.rows for part in manifest.parts[TOMBSTONES])


def not_forgotten(table: str, source: str) -> str:
    """SQL that selects the rows of a FROM item that are not forgotten; `table` is one of `DATED`."""
    columns, time = DATED[table]
    # A left join and a filter: an anti join with an inequality would not be a hash join.
    joins = " ".join(
        f'LEFT JOIN ({FORGOTTEN_REPOS}) AS forgotten{i} ON forgotten{i}.repo_id = kept."{c}"'
        for i, c in enumerate(columns)
    )
    newer = " AND ".join(
        f'(forgotten{i}.forgotten_at IS NULL OR kept."{time}" >= forgotten{i}.forgotten_at)'
        for i in range(len(columns))
    )
    return f"SELECT kept.* FROM {source} AS kept {joins} WHERE {newer}"


class Tombstones:
    """The tombstones of one state of a store.

    Attributes:
        repos: forgotten repos, each with the time of its newest tombstone: columns `repo_id`, `forgotten_at`.

    Raises:
        FileNotFoundError: a part is gone.
        StoreCorruptError: a part cannot be read.
    """

    def __init__(self, store: Path, manifest: Manifest) -> None:
        self._store, self._manifest = store, manifest
        rows = _read(store, manifest, TOMBSTONES, ("repo_id", "forgotten_at"))
        newest = rows.group_by("repo_id").aggregate([("forgotten_at", "max")])
        self.repos = newest.rename_columns(["repo_id", "forgotten_at"]).combine_chunks()

    @cached_property
    def fingerprints(self) -> pa.Array:
        """Fingerprint ids of forgotten checkpoints whose rows are still stored. Raises as the class does."""
        columns, time = DATED["checkpoints"]
        rows = _read(self._store, self._manifest, "checkpoints", ("fingerprint_id", *columns, time))
        return rows["fingerprint_id"].filter(self.forgotten("checkpoints", rows)).combine_chunks().unique()

    def forgotten(self, table: str, rows: pa.Table) -> pa.ChunkedArray:
        """Which rows are forgotten, as booleans; `rows` has at least the columns `key_columns(table)`."""
        if table in FINGERPRINT_TABLES:
            return pc.is_in(rows["fingerprint_id"], value_set=self.fingerprints)
        columns, time = DATED[table]
        return reduce(pc.or_, [self._older(rows[column], rows[time]) for column in columns])

    def _older(self, repos: pa.ChunkedArray, times: pa.ChunkedArray) -> pa.ChunkedArray:
        tombstones = pc.index_in(repos, value_set=self.repos["repo_id"].combine_chunks(), skip_nulls=True)
        forgotten_at = pc.take(self.repos["forgotten_at"].combine_chunks(), tombstones)
        return pc.and_(pc.is_valid(forgotten_at), pc.fill_null(pc.less(times, forgotten_at), True))


def key_columns(table: str) -> tuple[str, ...]:
    """Columns that decide whether a row is forgotten; empty for a table without repo ids."""
    if table in FINGERPRINT_TABLES:
        return ("fingerprint_id",)
    return (*DATED[table][0], DATED[table][1]) if table in DATED else ()


def _read(store: Path, manifest: Manifest, table: str, columns: tuple[str, ...]) -> pa.Table:
    pieces = [read_part(store, table, part, columns) for part in manifest.parts[table] if part.rows]
    return pa.concat_tables([empty(table).select(columns), *pieces])
