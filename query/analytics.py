"""SQL over the store: shipped queries, and user queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from provenance.schemas.errors import ProvenanceError
from provenance.schemas.suggestions import did_you_mean
from provenance.schemas.tabular import SHOWN_ROWS, html_table, to_pandas, to_polars

if TYPE_CHECKING:
    import duckdb
    import polars as pl
    import pyarrow as pa


_PLACE = "\n\nLINE "
_QUERIES = ("SELECT", "EXPLAIN", "MULTI")
"""DuckDB's kinds of statements that only return rows; `pivot` is several statements at once."""


class SqlError(ProvenanceError):
    """A statement that is no query, or does not parse or run.

    Attributes:
        place: the line of the statement and a caret under the fault, empty where it is not known.
    """

    def __init__(self, message: str, place: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.place = place


class UnknownQueryError(SqlError):
    """There is no shipped query of that name."""


@dataclass(frozen=True)
class SqlRows:
    """The rows of a query, to be taken as what they are needed for.

    Attributes:
        table: the rows, with distinct column names.
        more: whether there were more than the limit allowed.
    """

    table: pa.Table = field(repr=False)
    more: bool = False

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.table.column_names)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """The rows as Python values by column.

        Raises:
            SqlError: there is a time that Python cannot represent.
        """
        return as_rows(self.table)

    def arrow(self) -> pa.Table:
        """An Arrow table."""
        return self.table

    def pl(self) -> pl.DataFrame:
        """A polars frame.

        Raises:
            ProvenanceError: polars is not installed.
        """
        return to_polars(self.table)

    def df(self) -> Any:
        """A pandas `DataFrame`.

        Raises:
            ProvenanceError: pandas is not installed.
        """
        return to_pandas(self.table)

    def __repr__(self) -> str:
        return f"{len(self)} rows of ({', '.join(self.columns)}); take them with .rows(), .pl(), .df() or .arrow()"

    def _repr_html_(self) -> str:
        return html_table(self.columns, as_rows(self.table.slice(0, SHOWN_ROWS)), len(self))


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
        UnknownQueryError: there is no query of that name.
    """
    known = named_queries()
    if name not in known:
        hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        raise UnknownQueryError(f"no shipped query {name!r}{hint}")
    return files("provenance.query").joinpath("sql", f"{name}.sql").read_text("utf-8")


def run_sql(connection: duckdb.DuckDBPyConnection, statement: str, limit: int | None = None) -> SqlRows:
    """Run one query.

    Returns:
        its rows, at most `limit`, with distinct column names.

    Raises:
        SqlError: it is not one statement, or not a query, or does not parse or run.
    """
    import duckdb

    try:
        _require_query(connection.extract_statements(statement))
        relation = connection.sql(statement)
        if relation is None:  # a pivot into a table, for example
            raise SqlError("SQL: this statement returns no rows; only queries are run")
        # Both `select` and `limit` rename duplicate columns.
        table = (relation.select("*") if limit is None else relation.limit(limit + 1)).to_arrow_table()
    except duckdb.Error as error:
        # What is wrong, then after an empty line the statement with a caret under the place.
        what, _, place = str(error).partition(_PLACE)
        marked = (f"LINE {place}").splitlines()[:2] if place else ()
        raise SqlError(f"SQL: {' '.join(what.split())}", tuple(marked)) from None
    return SqlRows(table.slice(0, limit), limit is not None and table.num_rows > limit)


def _require_query(statements: list[duckdb.Statement]) -> None:
    if not statements:
        raise SqlError("SQL: there is no statement to run")
    if len(statements) > 1:
        raise SqlError(
            f"SQL: {len(statements)} statements; one query is run at a time (several come through stdin, each ends "
            "with ';' at the end of a line)"
        )
    kind = statements[0].type.name
    if kind not in _QUERIES:
        raise SqlError(
            f"SQL: {kind.replace('_', ' ')} is no query, and the store is read-only; select, from, with, describe, "
            "summarize and explain are queries"
        )


def as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """A table as Python values.

    Raises:
        SqlError: it contains a time that Python cannot represent.
    """
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (ValueError, OverflowError) as error:
        raise SqlError(f"SQL: {error}; cast it to text, or write Parquet") from None
    return rows
