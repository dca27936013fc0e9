"""Compaction: merge small parts into large ones, and remove files that are no longer used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from provenance.indexer.store.files import remove_abandoned
from provenance.indexer.store.manifest import Manifest, Part
from provenance.indexer.store.parts import stream_part
from provenance.indexer.store.swap import expire, locked, read_manifest, stage, swap, writing
from provenance.schemas.errors import StoreCorruptError
from provenance.schemas.protocols import Advance
from provenance.schemas.tables import TABLES


def compact(store: Path, grace: float, target_bytes: int, advance: Advance | None = None) -> Manifest:
    """Merge small parts of every table and remove unused files; see `Store.compact`."""
    for done, table in enumerate(TABLES, start=1):
        for group in groups(read_manifest(store).parts[table], target_bytes):
            rewrite(store, grace, table, group)
        if advance:
            advance(done, len(TABLES))
    with writing(store), locked(store):
        manifest = expire(store, grace, read_manifest(store))
        _sweep(store, grace, manifest)
        return manifest


def groups(parts: Sequence[Part], target_bytes: int) -> Iterator[list[Part]]:
    """Parts to merge: runs of two or more parts below the target size, each just long enough to reach it.

    A part is not merged until the parts after it have more than half of its size together. So from its second merge on
    it grows by at least half, and a row is rewritten at most 2 + log(target / its first part) / log(1.5) times. Every
    part that is not merged has at least twice the size of all parts after it, so there are at most
    2 + log(target / smallest) / log(3) of them.
    """
    small = [part for part in parts if part.bytes < target_bytes]
    first, tail = len(small), 0
    for place in reversed(range(len(small))):
        if small[place].bytes < 2 * tail:
            first = place
        tail += small[place].bytes
    group: list[Part] = []
    for part in small[first:]:
        group.append(part)
        if sum(member.bytes for member in group) >= target_bytes:
            if len(group) > 1:
                yield group
            group = []
    if len(group) > 1:
        yield group


def rewrite(
    store: Path, grace: float, table: str, group: Sequence[Part], keep: Callable[[pa.Table], pa.Table] | None = None
) -> bool:
    """Replace several parts with one that has their rows, filtered by `keep`.

    Returns:
        whether it was done: false if another process had replaced some of them first.

    Raises:
        StoreCorruptError: a part cannot be read.
        StoreError, StoreBusyError: as `Store.commit`.
    """
    paths = frozenset(part.path for part in group)
    pieces = (rows for part in group for rows in stream_part(store, table, part))
    first = False

    def choose(live: Manifest) -> frozenset[str]:
        nonlocal first
        first = paths <= live.paths()
        return paths

    with writing(store) as stack, unless_replaced(store, table, paths):
        writer = stage(stack, store, table, map(keep, pieces) if keep else pieces)
        swap(store, grace, [writer], choose, max(part.newest for part in group))
    return first


@contextmanager
def unless_replaced(store: Path, table: str, paths: frozenset[str]) -> Iterator[None]:
    """End the context early if one of the parts `paths` of a table is gone because another process replaced it.

    Raises:
        StoreCorruptError: it is gone but still live.
    """
    try:
        yield
    except FileNotFoundError as error:
        if paths <= read_manifest(store).paths():
            raise StoreCorruptError(
                f"a live part of {table} is missing ({error}); run `provenance verify` to see all that is wrong"
            ) from error


def _sweep(store: Path, grace: float, manifest: Manifest) -> None:
    """Remove the files of killed writers: unfinished files, and parts that are in no manifest. Needs the lock."""
    before = time.time() - grace
    known = manifest.paths() | {part.path for part in manifest.retired}
    remove_abandoned(store, before)
    for table in TABLES:
        remove_abandoned(store / table, before)
        for path in (store / table).glob("part-*.parquet"):
            if f"{table}/{path.name}" not in known and path.stat().st_mtime <= before:
                path.unlink()
