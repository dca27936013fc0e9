"""Compaction: few large parts instead of many small ones, and the removal of what nobody uses any more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from indexer.files import remove_abandoned
from indexer.manifest import Manifest, Part
from indexer.parts import stream_part
from indexer.swap import expire, locked, read_manifest, stage, swap, writing
from schemas.errors import StoreCorruptError
from schemas.tables import TABLES


def compact(store: Path, grace: float, target_bytes: int) -> Manifest:
    """Merge small parts of every table and sweep; see `Store.compact`."""
    for table in TABLES:
        for group in _groups(read_manifest(store).parts[table], target_bytes):
            _merge(store, grace, table, group)
    with writing(store), locked(store):
        manifest = expire(store, grace, read_manifest(store))
        _sweep(store, grace, manifest)
        return manifest


def _groups(parts: Sequence[Part], target_bytes: int) -> Iterator[list[Part]]:
    """Runs of two parts or more below the target, each just enough to reach it: a row is rewritten few times."""
    group: list[Part] = []
    for part in parts:
        if part.bytes < target_bytes:
            group.append(part)
        if sum(member.bytes for member in group) >= target_bytes:
            if len(group) > 1:
                yield group
            group = []
    if len(group) > 1:
        yield group


def _merge(store: Path, grace: float, table: str, group: Sequence[Part]) -> None:
    paths = frozenset(part.path for part in group)
    with writing(store) as stack:
        try:
            writer = stage(stack, store, table, (rows for part in group for rows in stream_part(store, table, part)))
        except FileNotFoundError as error:
            if paths <= read_manifest(store).paths():
                raise StoreCorruptError(
                    f"a live part of {table} is missing ({error}); run `provenance verify` to see all that is wrong"
                ) from error
            return  # another process merged them first
        swap(store, grace, [writer], lambda live: paths)


def _sweep(store: Path, grace: float, manifest: Manifest) -> None:
    """Remove what killed writers left: unfinished files, and parts that no manifest came to name. Needs the lock."""
    before = time.time() - grace
    known = manifest.paths() | {part.path for part in manifest.retired}
    remove_abandoned(store, before)
    for table in TABLES:
        remove_abandoned(store / table, before)
        for path in (store / table).glob("part-*.parquet"):
            if f"{table}/{path.name}" not in known and path.stat().st_mtime <= before:
                path.unlink()
