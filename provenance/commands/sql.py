"""`provenance sql`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from provenance.commands.options import format_option, store_option

if TYPE_CHECKING:
    import duckdb

TERMINAL_LIMIT = 1000


@click.command()
@click.argument("statement", required=False, metavar="[QUERY]")
@store_option
@format_option
@click.option("--named", metavar="NAME", help="Run a shipped query.")
@click.option("--list", "list_named", is_flag=True, help="List the shipped queries.")
@click.option("--limit", type=click.IntRange(1), help="Most rows (default: 1000 in a table on a terminal, else all).")
def sql(
    statement: str | None, store: str | None, output: str | None, named: str | None, list_named: bool, limit: int | None
) -> None:
    """Query the store in SQL (DuckDB, read-only). Without QUERY: a prompt, or the statements on stdin.

    Views: checkpoints, latest_checkpoints, files, tensors, samples, signatures, lineage, descendants, verdicts,
    outcomes, runs, tombstones.

    \b
    Examples:
      provenance sql "select repo_id, n_layers, license from latest_checkpoints"
      provenance sql "describe tensors"
      provenance sql --named outcomes-by-reason --format csv
      provenance sql --list
    """
    from provenance.query.analytics import named_queries, named_query

    if list_named:
        for name, about in named_queries().items():
            click.echo(f"{name:<24}{about}")
        return
    if named and statement:
        raise click.UsageError("give QUERY or --named, not both")
    from provenance import open as open_database
    from provenance.output import choose_format

    with open_database(store) as database, database.sql() as connection:
        chosen = choose_format(output)
        text = named_query(named) if named else statement
        if text is not None:
            _run(connection, text, chosen, limit)
        elif sys.stdin.isatty() and sys.stdout.isatty():
            _prompt(connection, chosen, limit)
        else:
            for piped in _statements(sys.stdin):
                _run(connection, piped, chosen, limit)


def _run(connection: duckdb.DuckDBPyConnection, text: str, output: str, limit: int | None) -> None:
    from provenance.output import print_arrow
    from provenance.query.analytics import run_sql

    if limit is None and output == "table" and sys.stdout.isatty():
        limit = TERMINAL_LIMIT
    table, more = run_sql(connection, text, limit)
    print_arrow(table, output)
    if more:
        click.echo(f"only the first {limit} rows are shown; use --limit for more", err=True)


def _prompt(connection: duckdb.DuckDBPyConnection, output: str, limit: int | None) -> None:
    """Run typed statements; an error is printed, and the next statement is read."""
    from provenance.output import clean
    from provenance.schemas.errors import ProvenanceError

    click.echo("SQL over the store, read-only; a statement ends with ';', Ctrl-D leaves.", err=True)
    for statement in _statements(_typed()):
        try:
            _run(connection, statement, output, limit)
        except ProvenanceError as error:
            click.echo(clean(error), err=True)


def _typed() -> Iterator[str]:
    while True:
        try:
            yield input("provenance> ") + "\n"
        except EOFError:
            return


def _statements(lines: Iterable[str]) -> Iterator[str]:
    """Statements: lines up to one that ends with ';', and the rest at the end."""
    statement = ""
    for line in lines:
        statement += line
        if statement.rstrip().endswith(";"):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
