"""The integrity check of a store: every byte of every live part, then the consistency of the rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import duckdb

from provenance.indexer.store.files import sha256_of
from provenance.indexer.store.manifest import Manifest, Part
from provenance.indexer.store.parts import stream_part
from provenance.indexer.store.tombstones import DATED, FORGOTTEN_REPOS
from provenance.indexer.store.views import parts_source
from provenance.schemas.errors import StoreCorruptError
from provenance.schemas.protocols import Advance
from provenance.schemas.tables import FINGERPRINT_TABLES, TABLES

KEYS: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("fingerprint_id",),
    "files": ("fingerprint_id", "path"),
    "tensors": ("fingerprint_id", "name", "part", "stack", "layer", "expert"),
    "samples": ("fingerprint_id",),
    "signatures": ("fingerprint_id", "spec"),
    "products": ("fingerprint_id", "spec"),
}
"""Unique keys of the tables. The other tables are logs, or derived."""

_IDS: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("repo_id", "checkpoint_id"),
    "files": ("checkpoint_id",),
    "tensors": ("checkpoint_id",),
    "samples": ("checkpoint_id",),
    "signatures": ("checkpoint_id",),
    "products": ("checkpoint_id",),
    "outcomes": ("repo_id",),
    "verdicts": ("repo_id", "checkpoint_id"),
    "lineage": ("child", "parent", "child_id", "parent_id"),
}
"""Columns that contain repo ids, alone or as part of a checkpoint id."""


def part_problems(
    store: Path, manifest: Manifest, tables: Collection[str] = TABLES, advance: Advance | None = None
) -> dict[str, str]:
    """The parts of some tables that are missing, unreadable, or differ from their entry in the manifest.

    Returns:
        the path of each, and what is wrong with it, in a line.
    """
    parts = [(table, part) for table in tables for part in manifest.parts[table]]
    problems = {}
    for done, (table, part) in enumerate(parts, start=1):
        if problem := _part_problem(store, table, part):
            problems[part.path] = problem
        if advance:
            advance(done, len(parts))
    return problems


def _part_problem(store: Path, table: str, part: Part) -> str | None:
    try:
        size = (store / part.path).stat().st_size
        if size != part.bytes:
            return f"{part.path} has {size} bytes, the manifest says {part.bytes}"
        if part.sha256 is not None:
            same = sha256_of(store / part.path) == part.sha256
            return None if same else f"{part.path} is not what was written: its SHA-256 differs"
        rows = sum(piece.num_rows for piece in stream_part(store, table, part))
    except FileNotFoundError:
        return f"{part.path} is missing"
    except StoreCorruptError as error:
        return str(error)
    except OSError as error:
        return f"{part.path} cannot be read ({error.strerror})"
    return None if rows == part.rows else f"{part.path} has {rows} rows, the manifest says {part.rows}"


def row_problems(connection: duckdb.DuckDBPyConnection, addresses: Mapping[str, Sequence[str]]) -> list[str]:
    """One line for every table with duplicate keys or with rows that belong to no stored checkpoint.

    Args:
        connection: can read the parts and has the views.
        addresses: addresses of the live parts of every table, for SQL.
    """
    problems = []
    for table, columns in KEYS.items():
        source, key = parts_source(table, addresses[table]), ", ".join(columns)
        doubled = _count(connection, f"(SELECT 1 FROM {source} GROUP BY {key} HAVING count(*) > 1)")
        if doubled:
            problems.append(f"{table}: {doubled} keys ({key}) occur more than once")
    checkpoints = parts_source("checkpoints", addresses["checkpoints"])  # including forgotten ones
    stored = f"(SELECT fingerprint_id FROM {checkpoints})"
    for table in FINGERPRINT_TABLES:
        source = parts_source(table, addresses[table])
        orphans = _count(connection, f"{source} ANTI JOIN {stored} USING (fingerprint_id)")
        if orphans:
            problems.append(f"{table}: {orphans} rows belong to no stored checkpoint")
    return problems


def forgotten_problems(connection: duckdb.DuckDBPyConnection, views: Path) -> list[str]:
    """One line for every view that still shows a forgotten repo.

    The views filter by repo id and fingerprint id; this check uses the repo in the checkpoint ids.

    Args:
        connection: has the views, and some tombstones.
        views: the file with the views for other clients.
    """
    problems = []
    for table, columns in _IDS.items():
        time = f'visible."{DATED[table][1]}"' if table in DATED else "fingerprint.fingerprinted_at"
        joined = "" if table in DATED else "JOIN checkpoints AS fingerprint USING (fingerprint_id)"
        names = ", ".join(f"split_part(visible.{column}, '@', 1)" for column in columns)
        shown = _count(
            connection,
            f"{table} AS visible {joined} WHERE EXISTS (FROM ({FORGOTTEN_REPOS}) AS tombstone "
            f"WHERE tombstone.repo_id IN ({names}) AND ({time} < tombstone.forgotten_at) IS NOT FALSE)",
        )
        if shown:
            problems.append(f"{table}: {shown} rows of a forgotten repo are still visible; forget it once more")
    newest = connection.execute(f"SELECT max(epoch(forgotten_at)) FROM ({FORGOTTEN_REPOS})").fetchone()
    if newest and newest[0] is not None and views.exists() and views.stat().st_mtime < newest[0]:
        problems.append(
            f"{views.name} is older than the last `provenance forget` and may show what was forgotten; "
            "run `provenance compact`"
        )
    return problems


def _count(connection: duckdb.DuckDBPyConnection, rows: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {rows}").fetchone()
    return int(row[0]) if row else 0
