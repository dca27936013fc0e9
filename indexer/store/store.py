"""The store: append-only Parquet parts in one manifest, read without locks while a crawl commits.

    FORMAT                 {"format": version}; an unknown version is refused
    MANIFEST               the live parts of every table; swapped atomically
    LOCK                   locked around each swap, by writers only
    <table>/part-*.parquet immutable parts; an empty one from the start, so that every view always works
    index/                 derived; not managed by the store
    provenance.duckdb      views over the live parts, for other DuckDB clients

A commit writes parts of one or more tables and becomes visible by one swap of MANIFEST: a writer killed at any time
leaves either all of it or nothing. Replaced parts stay on disk for a grace period, for readers that still use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from provenance.indexer.store import check, compaction, layout, purge, sandbox
from provenance.indexer.store.files import sync, temporary_name
from provenance.indexer.store.manifest import Manifest, Part
from provenance.indexer.store.parts import conform, read_part
from provenance.indexer.store.swap import locked, read_manifest, stage, swap, writing
from provenance.indexer.store.tombstones import Tombstones, has_tombstones, key_columns
from provenance.indexer.store.views import view_statements
from provenance.schemas.errors import StoreCorruptError, StoreError
from provenance.schemas.protocols import Advance
from provenance.schemas.tables import TABLES, schema

__all__ = ["GRACE_SECONDS", "TARGET_BYTES", "Manifest", "Part", "Store"]

GRACE_SECONDS = 3600.0
"""How long a replaced part is kept: longer than any query."""

TARGET_BYTES = 64 << 20
"""Compaction does not touch parts of this size or more."""

_T = TypeVar("_T")


class Store:
    """A store on disk; make one with `open` or `create`.

    Attributes:
        path: its folder.
        grace: seconds that replaced parts, and the files of killed writers, are kept for readers that may use them.
    """

    def __init__(self, path: Path, grace: float) -> None:
        self.path = path
        self.grace = grace

    @property
    def index_path(self) -> Path:
        """Folder of the derived index."""
        return self.path / layout.INDEX

    @classmethod
    def open(cls, path: Path | str, *, grace: float = GRACE_SECONDS) -> Store:
        """The existing store at `path`.

        Raises:
            StoreError: there is none.
            StoreFormatError: this version does not know its format.
            StoreCorruptError: its FORMAT or MANIFEST file is damaged.
        """
        store = cls(Path(path).absolute(), grace)
        layout.check_format(store.path)
        store.manifest()
        return store

    @classmethod
    def create(cls, path: Path | str, *, grace: float = GRACE_SECONDS) -> Store:
        """The store at `path`; creates it if `path` does not exist or is an empty folder.

        Raises:
            StoreError: `path` contains something else, or cannot be written.
            StoreFormatError, StoreCorruptError: as `open`.
        """
        layout.make(Path(path).absolute())
        return cls.open(path, grace=grace)

    def manifest(self) -> Manifest:
        """The current state.

        Raises:
            StoreCorruptError: the MANIFEST file is missing or damaged.
        """
        return read_manifest(self.path)

    def commit(self, tables: Mapping[str, pa.Table]) -> Manifest:
        """Add rows to one or more tables, all of them or none.

        Args:
            tables: rows by table name, with the columns of `schemas.tables.schema` in any order.

        Returns:
            the manifest with the new rows; the current one if there are no rows.

        Raises:
            StoreError: a table is unknown, rows do not fit their table, or writing to disk fails.
            StoreBusyError: another writer holds the lock for too long.
        """
        fitted = {table: conform(_known(table), rows) for table, rows in tables.items()}
        filled = {table: rows for table, rows in fitted.items() if rows.num_rows}
        if not filled:
            return self.manifest()
        with writing(self.path) as stack:
            writers = [stage(stack, self.path, table, [rows]) for table, rows in filled.items()]
            return swap(self.path, self.grace, writers, lambda live: frozenset())

    def replace(self, table: str, new: pa.Table) -> Manifest:
        """Replace all rows of a derived table, such as `lineage`, with the rows `new`.

        Raises:
            StoreError, StoreBusyError: as `commit`.
        """
        rows = conform(_known(table), new)
        with writing(self.path) as stack:
            writer = stage(stack, self.path, table, [rows])
            return swap(
                self.path, self.grace, [writer], lambda live: frozenset(part.path for part in live.parts[table])
            )

    def compact(self, target_bytes: int = TARGET_BYTES, advance: Advance | None = None) -> Manifest:
        """Merge the small parts of every table, and remove files that no reader can be using any more.

        Parts below `target_bytes` are merged, in order, until they have about that size, streamed in bounded memory. A
        part is merged only once those after it have half of its size, so a row is rewritten a logarithmic number of
        times, independent of the number of calls. No row is dropped. Other processes may commit and compact at the same
        time.

        Raises:
            StoreCorruptError: a part cannot be read; nothing of its table is replaced.
            StoreError, StoreBusyError: as `commit`.
        """
        return compaction.compact(self.path, self.grace, target_bytes, advance)

    def purge(self) -> dict[str, int]:
        """Drop the rows of forgotten repos from all parts; the old parts stay on disk for the grace period.

        Other processes may commit and compact at the same time. After a kill, the next call continues.

        Returns:
            number of dropped rows by table, for the tables that had any.

        Raises:
            StoreCorruptError: a part cannot be read.
            StoreError, StoreBusyError: as `commit`.
        """
        return purge.purge(self.path, self.grace)

    def tombstones(self, manifest: Manifest | None = None) -> dict[str, datetime]:
        """Forgotten repos, each with the time of its newest tombstone; reads nothing if there are none.

        Raises:
            StoreError: `manifest` is so old that its files are gone.
            StoreCorruptError: a part is missing or damaged.
        """

        def read(state: Manifest) -> dict[str, datetime]:
            if not has_tombstones(state):
                return {}
            return {row["repo_id"]: row["forgotten_at"] for row in Tombstones(self.path, state).repos.to_pylist()}

        return self._on(manifest, read)

    def read(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        manifest: Manifest | None = None,
        parts: Sequence[Part] | None = None,
    ) -> pa.Table:
        """Stored rows of a table except those of forgotten repos, whether or not `checkpoints` shows them.

        Args:
            table: its name.
            columns: which columns, in which order; default all.
            manifest: read this state; default the current one.
            parts: read these parts of the table only; default all live ones.

        Raises:
            StoreError: a name is unknown, or `manifest` or `parts` are so old that their files are gone.
            StoreCorruptError: a part is missing or damaged.
        """
        names = list(columns) if columns is not None else schema(_known(table)).names
        if unknown := [name for name in names if name not in schema(_known(table)).names]:
            raise StoreError(f"the table {table} has no columns {unknown}; it has {schema(table).names}")
        wanted = pa.schema([schema(table).field(name) for name in names])

        def read(state: Manifest) -> pa.Table:
            chosen = state.parts[table] if parts is None else parts
            keys = key_columns(table) if has_tombstones(state) else ()
            pieces = [read_part(self.path, table, part, list(dict.fromkeys((*names, *keys)))) for part in chosen]
            if keys:
                tombstones = Tombstones(self.path, state)
                pieces = [piece.filter(pc.invert(tombstones.forgotten(table, piece))).select(names) for piece in pieces]
            return pa.concat_tables([wanted.empty_table(), *pieces])

        return self._on(manifest if parts is None else manifest or self.manifest(), read)

    def connect(self, manifest: Manifest | None = None) -> duckdb.DuckDBPyConnection:
        """An in-memory DuckDB with all views over one state of the store, safe for a user's SQL.

        Its SQL can read only the live parts, and cannot write files; see `indexer.store.sandbox`. The parts of a query
        that runs longer than the grace period after a compaction may be gone: connect again.

        Raises:
            StoreError: `manifest` is so old that its files are gone.
            StoreCorruptError: a part is missing or damaged.
        """

        def connect(state: Manifest) -> duckdb.DuckDBPyConnection:
            self._require(state)
            connection = sandbox.connect(self.path, state.paths())
            try:
                for statement in view_statements(_addresses(state), tombstones=has_tombstones(state)):
                    connection.execute(statement)
            except duckdb.Error as error:
                connection.close()
                self._require(state)
                raise _unreadable(self.path, error) from error
            return connection

        return self._on(manifest, connect)

    def write_views(self) -> None:
        """Rewrite `provenance.duckdb`: the same views with absolute paths, for any DuckDB client from 1.3 on.

        Clients that have the old file open keep using it; open it with `read_only=True`.

        Raises:
            StoreCorruptError: a part is missing or damaged.
            StoreError, StoreBusyError: as `commit`.
        """
        temporary = self.path / temporary_name(".duckdb")
        with writing(self.path), locked(self.path):
            state = self.manifest()
            paths = {table: [str(self.path / part.path) for part in state.parts[table]] for table in TABLES}
            try:
                # Otherwise a client older than the installed duckdb cannot open the file.
                with duckdb.connect(temporary, config={"storage_compatibility_version": "v1.0.0"}) as connection:
                    for statement in view_statements(paths, tombstones=has_tombstones(state)):
                        connection.execute(statement)
                temporary.replace(self.path / layout.VIEWS)
                sync(self.path)
            except duckdb.Error as error:
                raise _unreadable(self.path, error) from error
            finally:
                temporary.unlink(missing_ok=True)

    def verify(self, advance: Advance | None = None) -> list[str]:
        """The problems of the store, one line each; empty if there are none. Reads every byte of every live part."""
        state = self.manifest()
        problems = list(check.part_problems(self.path, state, advance=advance).values())
        if set(self._lost(state)) - self.manifest().paths():
            return self.verify(advance)  # some were compacted away during the check
        if problems:
            return problems
        with self.connect(state) as connection:
            problems = check.row_problems(connection, _addresses(state))
            if has_tombstones(state):
                problems += check.forgotten_problems(connection, self.path / layout.VIEWS)
            return problems

    def _lost(self, state: Manifest) -> list[str]:
        return [path for path in sorted(state.paths()) if not (self.path / path).exists()]

    def _require(self, state: Manifest) -> None:
        if lost := self._lost(state):
            raise FileNotFoundError(f"{lost[0]} is missing")

    def _on(self, given: Manifest | None, act: Callable[[Manifest], _T]) -> _T:
        """Call `act` with a manifest; if none was given and a part was compacted away, repeat with the current one."""
        try:
            return act(given or self.manifest())
        except FileNotFoundError as error:
            if given is None:
                return self._on(self.manifest(), act)
            if lost := self._lost(self.manifest()):
                raise StoreCorruptError(
                    f"{lost[0]} is missing from the store at {self.path}; run `provenance verify` for all that is "
                    "wrong, and restore it from a backup or crawl into a new store"
                ) from error
            raise StoreError(
                "the parts of this manifest were compacted away since it was read; take a fresh one and try again"
            ) from error


def _known(table: str) -> str:
    if table not in TABLES:
        raise StoreError(f"there is no table {table!r}; the tables are {', '.join(TABLES)}")
    return table


def _addresses(state: Manifest) -> dict[str, list[str]]:
    return {table: [sandbox.address(part.path) for part in parts] for table, parts in state.parts.items()}


def _unreadable(path: Path, error: duckdb.Error) -> StoreCorruptError:
    reason = str(error).splitlines()[0]
    return StoreCorruptError(f"a part of the store at {path} cannot be read ({reason}); run `provenance verify`")
