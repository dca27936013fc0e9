"""SQL over the store: shipped queries, and running anybody's."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from schemas.errors import ProvenanceError

if TYPE_CHECKING:
    import duckdb


class SqlError(ProvenanceError):
    """A statement that does not parse or run."""


def named_queries() -> dict[str, str]:
    """Name -> what it answers: the first line of each file of `query/sql`."""
    found = sorted(
        (f for f in files("query").joinpath("sql").iterdir() if f.name.endswith(".sql")), key=lambda f: f.name
    )
    return {f.name.removesuffix(".sql"): f.read_text("utf-8").splitlines()[0].removeprefix("-- ") for f in found}


def named_query(name: str) -> str:
    """The text of a shipped query.

    Raises:
        SqlError: there is none of that name.
    """
    if name not in named_queries():
        raise SqlError(f"no shipped query {name!r}; there are {', '.join(named_queries())}")
    return files("query").joinpath("sql", f"{name}.sql").read_text("utf-8")


def run_sql(
    connection: duckdb.DuckDBPyConnection, statement: str, limit: int | None
) -> tuple[list[dict[str, Any]], bool]:
    """Run one statement.

    Returns:
        its rows, `limit` at the most, and whether there were more.

    Raises:
        SqlError: it does not parse or run; the message is DuckDB's.
    """
    import duckdb

    try:
        relation = connection.sql(statement)
        if relation is None:
            return [], False
        table = (relation if limit is None else relation.limit(limit + 1)).to_arrow_table()
    except duckdb.Error as error:
        raise SqlError(f"SQL: {error}") from error
    more = limit is not None and table.num_rows > limit
    rows: list[dict[str, Any]] = table.slice(0, limit).to_pylist()
    return rows, more
