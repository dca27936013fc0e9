"""Import the checkpoints of another store: rows are copied, nothing is computed again.

The other store is untrusted. Its parts must have the columns, and its checkpoints the versions, of this program, and
everything that a later `provenance index` relies on is checked row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from provenance.indexer.store.manifest import Manifest, Part
from provenance.indexer.store.parts import count_groups, read_part
from provenance.indexer.store.store import Store
from provenance.schemas.errors import IdentityError, StoreError, StoreFormatError
from provenance.schemas.identity import CheckpointId
from provenance.schemas.protocols import Advance
from provenance.schemas.roles import ROLES
from provenance.schemas.sampling import SAMPLE_CELLS, SAMPLE_VERSION
from provenance.schemas.tables import FINGERPRINT_VERSION, schema

BATCH = 256
"""Checkpoints per commit: about ten megabytes."""

COPIED = ("files", "tensors", "samples", "products", "checkpoints")

_KEY = ("checkpoint_id", "mode", "fingerprint_version")
_IDENTITY = ("repo_id", "revision", "subfolder", "variant")
_CHUNK = 10_000
_INT32, _INT16 = (1 << 31) - 1, (1 << 15) - 1


@dataclass(slots=True)
class Taken:
    """Numbers of another store's checkpoints.

    Attributes:
        imported: copied.
        known: already in this store.
        forgotten: of repos that were forgotten in this store.
        malformed: with inconsistent rows.
    """

    imported: int = 0
    known: int = 0
    forgotten: int = 0
    malformed: int = 0


def take_over(target: Store, source: Store, advance: Advance | None = None) -> Taken:
    """Copy the checkpoints of `source` that `target` does not have, in commits of `BATCH` checkpoints.

    A kill leaves only complete checkpoints, and a second call continues. Repos forgotten in either store are not
    copied. No other process may add fingerprints to `target` at the same time.

    Raises:
        StoreFormatError: a checkpoint has another version of fingerprint or sample; nothing was copied.
        StoreError: both are one store, or `source` was compacted and its old parts removed during the import.
        StoreCorruptError: a part cannot be read.
    """
    if target.path.samefile(source.path):
        raise StoreError(f"{source.path} is the store to import into; name another one")
    state = source.manifest()
    taken = Taken()
    wanted = pa.array(_choose(target, source, state, taken), pa.string())
    try:
        tables = {table: _Rows(source, table, state.parts[table], wanted) for table in COPIED}
        for start in range(0, len(wanted), BATCH):
            batch = {table: rows.between(start, start + BATCH) for table, rows in tables.items()}
            sound = pc.invert(
                pc.is_in(wanted[start : start + BATCH], value_set=pa.array(_malformed(batch), pa.string()))
            )
            whole = wanted[start : start + BATCH].filter(sound)
            target.commit({table: _of(rows, whole) for table, rows in batch.items()})
            taken.imported += len(whole)
            taken.malformed += len(sound) - len(whole)
            if advance:
                advance(min(start + BATCH, len(wanted)), len(wanted))
    except FileNotFoundError as error:
        raise StoreError(
            f"the store at {source.path} was compacted during the import ({error}); import it again to go on"
        ) from error
    return taken


def _choose(target: Store, source: Store, state: Manifest, taken: Taken) -> list[str]:
    """Fingerprint ids to copy, in the order of `source`; counts the others."""
    rows = source.read("checkpoints", ["fingerprint_id", *_KEY, *_IDENTITY, "sample_version"], manifest=state)
    _check_versions(source, rows)
    stored = target.read("checkpoints", ["fingerprint_id", *_KEY])
    known = set(zip(*(stored[name].to_pylist() for name in _KEY), strict=True))
    ids = set(stored["fingerprint_id"].to_pylist())
    forgotten = target.tombstones()
    chosen = []
    for row in _each(rows):
        key = tuple(row[name] for name in _KEY)
        if row["repo_id"] in forgotten:
            taken.forgotten += 1
        elif key in known:
            taken.known += 1
        elif row["fingerprint_id"] in ids or not _is_identity(row):
            taken.malformed += 1
        else:
            known.add(key)
            ids.add(row["fingerprint_id"])
            chosen.append(row["fingerprint_id"])
    return chosen


def _check_versions(source: Store, rows: pa.Table) -> None:
    versions = rows.group_by(["fingerprint_version", "sample_version"]).aggregate([([], "count_all")]).to_pylist()
    for row in versions:
        if (row["fingerprint_version"], row["sample_version"]) != (FINGERPRINT_VERSION, SAMPLE_VERSION):
            raise StoreFormatError(
                f"the store at {source.path} has {row['count_all']} checkpoints with fingerprints of version "
                f"{row['fingerprint_version']} and samples of version {row['sample_version']!r}, this program makes "
                f"{FINGERPRINT_VERSION} and {SAMPLE_VERSION!r}: they cannot be compared, and nothing was imported; "
                "use the release of `provenance` that wrote them"
            )


def _each(rows: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(max_chunksize=_CHUNK):
        yield from batch.to_pylist()


def _is_identity(row: Mapping[str, Any]) -> bool:
    try:
        return (
            bool(row["fingerprint_id"])
            and str(CheckpointId(*(row[name] for name in _IDENTITY))) == row["checkpoint_id"]
        )
    except (IdentityError, TypeError):
        return False


class _Rows:
    """The rows of some fingerprints in one table, read by row groups: the whole table is never in memory."""

    def __init__(self, store: Store, table: str, parts: tuple[Part, ...], wanted: pa.Array) -> None:
        self._store, self._table, self._wanted = store, table, wanted
        # Tables are filled by the same commits and keep their order, so a group spans few of the wanted ids.
        self._groups: list[tuple[Part, int, int, int]] = []
        for part in parts:
            for group in range(count_groups(store.path, table, part)):
                ids = read_part(store.path, table, part, ["fingerprint_id"], group)["fingerprint_id"].unique()
                places = pc.min_max(pc.index_in(ids, value_set=wanted)).as_py()
                if places["min"] is not None:
                    self._groups.append((part, group, places["min"], places["max"]))
        self._held: tuple[Part, int, pa.Table] | None = None

    def between(self, start: int, stop: int) -> pa.Table:
        """Rows of the fingerprints `wanted[start:stop]`."""
        ids = self._wanted[start:stop]
        pieces = [
            _of(self._group(part, group), ids)
            for part, group, first, last in self._groups
            if first < stop and last >= start
        ]
        return pa.concat_tables([schema(self._table).empty_table(), *pieces])

    def _group(self, part: Part, group: int) -> pa.Table:
        if self._held is None or self._held[:2] != (part, group):
            self._held = None  # free it first: never two in memory
            rows = read_part(self._store.path, self._table, part, schema(self._table).names, group)
            self._held = part, group, rows
        return self._held[2]


def _of(rows: pa.Table, ids: pa.Array) -> pa.Table:
    return rows.filter(pc.is_in(rows["fingerprint_id"], value_set=ids))


def _malformed(batch: Mapping[str, pa.Table]) -> list[str]:
    """Fingerprint ids with rows that the index could not use, or that belong to another checkpoint."""
    checkpoints, tensors, samples = batch["checkpoints"], batch["tensors"], batch["samples"]
    bad: list[str] = []

    def note(owners: pa.ChunkedArray, sound: pa.ChunkedArray) -> None:
        bad.extend(owners.filter(pc.invert(pc.fill_null(sound, False))).unique().to_pylist())

    named = checkpoints["checkpoint_id"].combine_chunks()
    for table in batch.values():
        owner = pc.index_in(table["fingerprint_id"], value_set=checkpoints["fingerprint_id"].combine_chunks())
        note(table["fingerprint_id"], pc.equal(table["checkpoint_id"], pc.take(named, owner)))
    ids = tensors["fingerprint_id"].combine_chunks()
    note(ids, pc.is_in(tensors["role"], value_set=pa.array(ROLES)))
    note(ids, _within(tensors["layer"], _INT32))
    note(ids, _within(tensors["expert"], _INT16))
    note(ids, pc.fill_null(pc.match_substring_regex(tensors["digest"], "^[0-9a-f]{16,}$"), True))
    note(ids, pc.is_valid(tensors["shape"]))
    shapes = tensors["shape"].combine_chunks()
    note(ids.take(pc.list_parent_indices(shapes)), pc.greater_equal(pc.list_flatten(shapes), 0))
    ids, lengths = samples["fingerprint_id"].combine_chunks(), pc.binary_length(samples["data"]).combine_chunks()
    note(ids, pc.less_equal(lengths, 2 * SAMPLE_CELLS))
    lists = samples["entries"].combine_chunks()
    of, entries = pc.list_parent_indices(lists), pc.list_flatten(lists)
    offset, count, exponent = (entries.field(name).cast(pa.int64()) for name in ("offset", "count", "exponent"))
    note(ids.take(of), pc.and_(_within(offset, _INT32), _within(count, _INT32)))
    note(ids.take(of), pc.less_equal(pc.multiply(pc.add(offset, count), 2), pc.take(lengths, of)))
    note(ids.take(of), pc.less_equal(pc.abs(exponent), _INT16))
    return bad


def _within(values: pa.ChunkedArray, highest: int) -> pa.ChunkedArray:
    """Mask of the values that are null or from 0 to `highest`."""
    inside = pc.and_(pc.greater_equal(values, 0), pc.less_equal(values, highest))
    return pc.fill_null(inside, True)
