"""The integrity check of a store: every byte of every live part, then the rows against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from indexer.manifest import Manifest, Part
from indexer.parts import stream_part
from indexer.views import parts_source
from schemas.errors import StoreCorruptError
from schemas.tables import FINGERPRINT_TABLES

KEYS: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("fingerprint_id",),
    "files": ("fingerprint_id", "path"),
    "tensors": ("fingerprint_id", "name", "part", "stack", "layer", "expert"),
    "samples": ("fingerprint_id",),
    "signatures": ("fingerprint_id", "spec"),
}
"""Columns that no two rows of a table may share. Tables not named here are logs, or derived."""


def part_problems(store: Path, manifest: Manifest) -> list[str]:
    """One line for every part that is missing, unreadable, or not what the manifest says of it."""
    problems = [_part_problem(store, table, part) for table, parts in manifest.parts.items() for part in parts]
    return [problem for problem in problems if problem]


def _part_problem(store: Path, table: str, part: Part) -> str | None:
    try:
        size = (store / part.path).stat().st_size
        if size != part.bytes:
            return f"{part.path} has {size} bytes, the manifest says {part.bytes}"
        rows = sum(piece.num_rows for piece in stream_part(store, table, part))
    except FileNotFoundError:
        return f"{part.path} is missing"
    except StoreCorruptError as error:
        return str(error)
    return None if rows == part.rows else f"{part.path} has {rows} rows, the manifest says {part.rows}"


def row_problems(connection: duckdb.DuckDBPyConnection, addresses: Mapping[str, Sequence[str]]) -> list[str]:
    """One line for every table with duplicate keys or with rows that belong to no stored checkpoint.

    Args:
        connection: one that can read the parts and has the views.
        addresses: where its SQL finds the live parts of every table.
    """
    problems = []
    for table, columns in KEYS.items():
        source, key = parts_source(addresses[table]), ", ".join(columns)
        doubled = _count(connection, f"(SELECT 1 FROM {source} GROUP BY {key} HAVING count(*) > 1)")
        if doubled:
            problems.append(f"{table}: {doubled} keys ({key}) occur more than once")
    for table in FINGERPRINT_TABLES:
        source = parts_source(addresses[table])
        orphans = _count(connection, f"{source} ANTI JOIN checkpoints USING (fingerprint_id)")
        if orphans:
            problems.append(f"{table}: {orphans} rows belong to no stored checkpoint")
    return problems


def _count(connection: duckdb.DuckDBPyConnection, rows: str) -> int:
    found = connection.execute(f"SELECT count(*) FROM {rows}").fetchone()
    return int(found[0]) if found else 0
