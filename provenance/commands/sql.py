"""`provenance sql`."""

from __future__ import annotations

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
@click.option("--limit", type=click.IntRange(1), help="Rows at the most (a table on a terminal: 1000; else all).")
def sql(
    statement: str | None, store: str | None, output: str | None, named: str | None, list_named: bool, limit: int | None
) -> None:
    """Ask the store in SQL (DuckDB, read-only). Without QUERY: a prompt.

    Views: checkpoints, latest_checkpoints, files, tensors, samples, signatures, lineage, descendants, outcomes, runs.

    \b
    Examples:
      provenance sql "select repo_id, n_layers, license from latest_checkpoints"
      provenance sql "describe tensors"
      provenance sql --named outcomes-by-reason --format csv
      provenance sql --list
    """
    from query.analytics import named_queries, named_query

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
        if text is None:
            _prompt(connection)
        else:
            _run(connection, text, chosen, limit)


def _run(connection: duckdb.DuckDBPyConnection, text: str, output: str, limit: int | None) -> None:
    import sys

    from provenance.output import print_rows
    from query.analytics import run_sql

    if limit is None and output == "table" and sys.stdout.isatty():
        limit = TERMINAL_LIMIT
    rows, more = run_sql(connection, text, limit)
    print_rows(rows, output)
    if more:
        click.echo(f"only the first {limit} rows are shown; use --limit for more", err=True)


def _prompt(connection: duckdb.DuckDBPyConnection) -> None:
    from schemas.errors import ProvenanceError

    click.echo("SQL over the store, read-only; a statement ends with ';', Ctrl-D leaves.", err=True)
    statement = ""
    while True:
        try:
            line = input("provenance> " if not statement else "       ...> ")
        except EOFError:
            return
        statement += line + "\n"
        if not statement.rstrip().endswith(";"):
            continue
        try:
            _run(connection, statement, "table", None)
        except ProvenanceError as error:
            click.echo(str(error), err=True)
        statement = ""
