"""Purging: remove the rows of forgotten repos from the parts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from provenance.indexer.store.compaction import rewrite, unless_replaced
from provenance.indexer.store.parts import read_part
from provenance.indexer.store.swap import read_manifest
from provenance.indexer.store.tombstones import DATED, Tombstones, has_tombstones, key_columns
from provenance.schemas.tables import FINGERPRINT_TABLES


def purge(store: Path, grace: float) -> dict[str, int]:
    """Drop all forgotten rows; see `Store.purge`."""
    state = read_manifest(store)
    if not has_tombstones(state):
        return {}
    with unless_replaced(store, "checkpoints", state.paths()):
        tombstones = Tombstones(store, state)
        order = [table for table in DATED if table != "checkpoints"]
        if len(tombstones.fingerprints):
            # Checkpoints last: the other rows to drop are found by them, also in the next call if this one is killed.
            order += [*FINGERPRINT_TABLES, "checkpoints"]
        dropped = {table: _purge_table(store, grace, table, tombstones) for table in order}
        return {table: rows for table, rows in dropped.items() if rows}
    return purge(store, grace)


def _purge_table(store: Path, grace: float, table: str, tombstones: Tombstones) -> int:
    # A checkpoint is dropped only once its other rows are gone; one committed during this call waits for the next.
    rule = "files" if table == "checkpoints" else table
    clean: set[str] = set()
    dropped = 0

    def keep(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.invert(tombstones.forgotten(rule, rows)))

    while parts := [part for part in read_manifest(store).parts[table] if part.path not in clean]:
        for part in parts:
            with unless_replaced(store, table, frozenset({part.path})):
                keys = read_part(store, table, part, key_columns(rule))
                n_forgotten = keys.num_rows - keep(keys).num_rows
                if n_forgotten == 0:
                    clean.add(part.path)
                elif rewrite(store, grace, table, [part], keep):
                    dropped += n_forgotten
    return dropped
