"""All rows of a view, piece by piece, for copies larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from provenance.indexer.store.manifest import Manifest
from provenance.indexer.store.parts import stream_part
from provenance.indexer.store.store import Store
from provenance.indexer.store.tombstones import DATED, Tombstones, has_tombstones
from provenance.indexer.store.views import DERIVED
from provenance.schemas.errors import StoreError
from provenance.schemas.suggestions import did_you_mean
from provenance.schemas.tables import FINGERPRINT_TABLES, TABLES, schema


def stream_view(store: Store, view: str) -> Iterator[pa.Table]:
    """All rows of a view, in pieces of tens of megabytes; the first piece is empty and gives the columns.

    Raises:
        StoreError: there is no such view, or the store was compacted and its old parts removed during the read.
        StoreCorruptError: a part cannot be read.
    """
    if view not in (names := (*TABLES, *DERIVED)):
        hint = did_you_mean(view, names) or f"; there is {', '.join(names)}"
        raise StoreError(f"there is no table {view!r}{hint}")
    state = store.manifest()
    if view in DERIVED:
        yield from _derived(store, state, view)
        return
    yield schema(view).empty_table()
    try:
        # Not by DuckDB, which holds much of the result in memory.
        visible = _visible(store, state, view)
        for part in state.parts[view]:
            for rows in stream_part(store.path, view, part):
                yield rows.filter(visible(rows)) if visible else rows
    except FileNotFoundError as error:
        raise StoreError(f"the store was compacted during the read ({error}); try again") from error


def _visible(store: Store, state: Manifest, table: str) -> Callable[[pa.Table], pa.ChunkedArray] | None:
    """A function from rows to a mask of those that the view of a table shows; null if it shows all."""
    if table in FINGERPRINT_TABLES:
        stored = store.read("checkpoints", ["fingerprint_id"], manifest=state)["fingerprint_id"].combine_chunks()
        return lambda rows: pc.is_in(rows["fingerprint_id"], value_set=stored)
    if table in DATED and has_tombstones(state):
        tombstones = Tombstones(store.path, state)
        return lambda rows: pc.invert(tombstones.forgotten(table, rows))
    return None


def _derived(store: Store, state: Manifest, view: str) -> Iterator[pa.Table]:
    with store.connect(state) as connection:
        rows = connection.sql(f"FROM {view}").to_arrow_table()
    wanted = schema("checkpoints") if view == "latest_checkpoints" else rows.schema
    yield wanted.empty_table()
    yield rows.cast(wanted)
