"""What a store holds, as rows: SQL over its views, new arrivals, whole views, and the table `lineage`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from provenance.schemas.errors import IndexMissingError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from provenance.indexer.store.store import Store
    from provenance.query.analytics import SqlRows
    from provenance.schemas.figures import Arrival
    from provenance.schemas.lineage import LineageRow
    from provenance.schemas.tabular import Rows


class Tables:
    """What can be read of a store as it is, without an answer about a model. Base of `Database`."""

    store: Store

    def sql(self, statement: str, limit: int | None = None) -> SqlRows:
        """The rows of one query over the views of the store as it is now; `limit` is the most of them.

        Raises:
            SqlError: it is no query, or does not parse or run.
        """
        from provenance.query.analytics import run_sql

        with self.connect() as connection:
            return run_sql(connection, statement, limit)

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A read-only DuckDB connection over the views of the store as it is now; close it after use."""
        return self.store.connect()

    def arrivals(self, since: str) -> Rows[Arrival]:
        """Checkpoints fingerprinted since a date or time (ISO 8601, UTC), a run (its id), or the `last` run.

        Raises:
            ProvenanceError: `since` is none of these.
        """
        from provenance.query.status import arrivals

        with self.connect() as connection:
            return arrivals(connection, since)

    def stream(self, view: str) -> Iterator[pa.Table]:
        """All rows of a view of the store, in tables of some tens of megabytes; see `indexer.store.stream`."""
        from provenance.indexer.store.stream import stream_view

        return stream_view(self.store, view)

    def lineage(self) -> Rows[LineageRow]:
        """The rows of the table `lineage`.

        Raises:
            IndexMissingError: it was never computed.
        """
        from provenance.schemas.lineage import LineageRow
        from provenance.schemas.tabular import Rows

        rows = self.store.read("lineage").to_pylist()
        if not rows and not self.store.read("verdicts", ["repo_id"]).num_rows:
            raise IndexMissingError(f"{self.store.path}: no lineage yet; run `provenance lineage --refresh`")
        return Rows(LineageRow, map(LineageRow.from_row, rows))
