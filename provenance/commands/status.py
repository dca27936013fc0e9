"""`provenance status`."""

from __future__ import annotations

from typing import Any

import click

from provenance.commands.options import format_option, store_option


@click.command()
@store_option
@format_option
@click.option(
    "--since", metavar="WHEN", help="List what arrived since a date or time (UTC), a run (its id), or the `last` run."
)
def status(store: str | None, output: str | None, since: str | None) -> None:
    """Show what the store holds, what the last crawls did, and what failed.

    With --since: one row for every checkpoint that was fingerprinted since then. Only these rows can be csv or parquet.

    \b
    Examples:
      provenance status
      provenance status --format json
      provenance status --since last --format csv
    """
    from provenance import open as open_database
    from provenance.output import choose_format, print_arrow, print_json

    chosen = choose_format(output)
    if since is None and chosen in ("csv", "parquet"):
        raise click.UsageError(f"--format {chosen} is for the rows of --since")
    with open_database(store) as database:
        if since is not None:
            print_arrow(database.arrivals(since), chosen)
            return
        found = database.status()
    if chosen == "json":
        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from provenance.output import clean, print_table, show_bytes

    figures = found["store"]
    click.echo(
        f"{clean(figures['path'])}: {figures['checkpoints']} checkpoints of {figures['repos']} repos, "
        f"{figures['unindexed']} not indexed; {show_bytes(figures['bytes_on_disk'])} on disk, "
        f"{show_bytes(figures['bytes_read'])} of weights read"
    )
    for title in ("runs", "reasons", "unresolved"):
        if found[title]:
            click.echo(f"\n{title}")
            print_table([_shown(row) for row in found[title]])


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row for people: counts in words and units."""
    if "budgets" not in row:
        return row
    budgets = [
        f"{name} {b['quota'] or '?'}/{b['window'] or '?'} s"
        + ("" if b["share"] is None else f", {b['share']:.0%} used")
        for name, b in (row["budgets"] or {}).items()
    ]
    rate = None if row["rate"] is None else f"{row['rate']:,.0f}/h"
    return {**row, "rate": rate, "budgets": "; ".join(budgets) or None}
