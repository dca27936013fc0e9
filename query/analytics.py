"""SQL over the store: shipped queries, and user queries."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from provenance.schemas.errors import ProvenanceError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


_PLACE = "\n\nLINE "


class SqlError(ProvenanceError):
    """A statement that does not parse or run."""


def named_queries() -> dict[str, str]:
    """Name -> description, which is the first line of each file of `query/sql`."""
    sources = sorted(
        (f for f in files("provenance.query").joinpath("sql").iterdir() if f.name.endswith(".sql")),
        key=lambda f: f.name,
    )
    return {f.name.removesuffix(".sql"): f.read_text("utf-8").splitlines()[0].removeprefix("-- ") for f in sources}


def named_query(name: str) -> str:
    """The text of a shipped query.

    Raises:
        SqlError: there is no query of that name.
    """
    if name not in named_queries():
        raise SqlError(f"no shipped query {name!r}; there are {', '.join(named_queries())}")
    return files("provenance.query").joinpath("sql", f"{name}.sql").read_text("utf-8")


def run_sql(connection: duckdb.DuckDBPyConnection, statement: str, limit: int | None = None) -> tuple[pa.Table, bool]:
    """Run one statement; of several, separated by `;`, the last one's rows are returned.

    Returns:
        its rows, at most `limit`, with distinct column names, and whether there were more.

    Raises:
        SqlError: it does not parse or run; the message is the first paragraph of DuckDB's.
    """
    import duckdb
    import pyarrow as pa

    try:
        relation = connection.sql(statement)
        if relation is None:
            return pa.table({}), False
        # Both `select` and `limit` rename duplicate columns.
        table = (relation.select("*") if limit is None else relation.limit(limit + 1)).to_arrow_table()
    except duckdb.Error as error:
        # Cut off the statement and the caret that marks the position.
        raise SqlError(f"SQL: {' '.join(str(error).partition(_PLACE)[0].split())}") from error
    return table.slice(0, limit), limit is not None and table.num_rows > limit


def as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """A table as Python values.

    Raises:
        SqlError: it contains a time that Python cannot represent.
    """
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (ValueError, OverflowError) as error:
        raise SqlError(f"SQL: {error}; cast it to text, or write Parquet") from error
    return rows
