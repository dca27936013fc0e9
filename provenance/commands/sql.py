"""`provenance sql`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from provenance.commands.options import format_option, store_option, wide_option

if TYPE_CHECKING:
    import duckdb

TERMINAL_LIMIT = 1000


def _complete_named(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from provenance.query.analytics import named_queries

    return [name for name in named_queries() if name.startswith(incomplete)]


@click.command()
@click.argument("statement", required=False, metavar="[QUERY]")
@store_option
@format_option
@wide_option
@click.option("--named", metavar="NAME", help="Run a shipped query.", shell_complete=_complete_named)
@click.option("--list", "list_named", is_flag=True, help="List the shipped queries.")
@click.option("--limit", type=click.IntRange(1), help="Most rows (default: 1000 in a table on a terminal, else all).")
def sql(
    statement: str | None,
    store: str | None,
    output: str | None,
    wide: bool,
    named: str | None,
    list_named: bool,
    limit: int | None,
) -> None:
    """Query the store in SQL (DuckDB, read-only). Without QUERY: a prompt, or the queries on stdin.

    QUERY is one select, from, with, describe, summarize, pivot or explain. On stdin and at the prompt a query ends with
    `;` at the end of a line.

    Views: checkpoints, latest_checkpoints, files, tensors, samples, signatures, lineage, descendants, verdicts,
    outcomes, runs, tombstones.

    \b
    Examples:
      provenance sql "select repo_id, n_layers, license from latest_checkpoints"
      provenance sql "describe tensors"
      provenance sql --named outcomes-by-reason --format csv
      provenance sql --list
    """
    from provenance.output import choose_format, print_rows
    from provenance.query.analytics import UnknownQueryError, named_queries, named_query

    if list_named:
        rows = [{"name": name, "about": about} for name, about in named_queries().items()]
        print_rows(rows, output or "table", wide=wide, wraps=("about",))
        return
    if named and statement:
        raise click.UsageError("give QUERY or --named, not both")
    try:
        text = named_query(named) if named else statement
    except UnknownQueryError as error:
        raise click.UsageError(str(error)) from None
    from provenance import open as open_database

    with open_database(store) as database, database.connect() as connection:
        run = _Runner(connection, choose_format(output), limit, wide)
        if text is not None:
            run(text)
        elif sys.stdin.isatty() and sys.stdout.isatty():
            _prompt(run)
        else:
            for piped in _statements(sys.stdin):
                run(piped)


@dataclass(frozen=True)
class _Runner:
    """Runs statements and prints their rows, all in one format."""

    connection: duckdb.DuckDBPyConnection
    output: str
    limit: int | None
    wide: bool

    def __call__(self, text: str) -> None:
        from provenance.output import note, print_arrow
        from provenance.query.analytics import run_sql

        limit = self.limit
        if limit is None and self.output == "table" and sys.stdout.isatty():
            limit = TERMINAL_LIMIT
        found = run_sql(self.connection, text, limit)
        print_arrow(found.table, self.output, wide=self.wide)
        if found.more:
            note(f"only the first {limit} rows are shown; use --limit for more")


def _prompt(run: _Runner) -> None:
    """Run typed statements; an error is printed, and the next statement is read."""
    from provenance.output.errors import print_error
    from provenance.schemas.errors import ProvenanceError

    click.echo("SQL over the store, read-only; a statement ends with ';', Ctrl-D leaves.", err=True)
    for statement in _statements(_typed()):
        try:
            run(statement)
        except ProvenanceError as error:
            print_error(error, name="")


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
