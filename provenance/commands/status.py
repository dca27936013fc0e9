"""`provenance status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provenance.commands.options import format_option, store_option

if TYPE_CHECKING:
    from provenance.schemas.figures import RunFigures, StoreStatus


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
            print_arrow(database.arrivals(since).to_arrow(), chosen)
            return
        found = database.status()
    if chosen == "json":
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: StoreStatus) -> None:
    from provenance.output import clean, print_table, show_bytes

    figures = found.store
    click.echo(
        f"{clean(figures.path)}: {figures.checkpoints} checkpoints of {figures.repos} repos, "
        f"{figures.unindexed} not indexed; {show_bytes(figures.bytes_on_disk)} on disk, "
        f"{show_bytes(figures.bytes_read)} of weights read"
    )
    for title, rows in (
        ("runs", [_run(run) for run in found.runs]),
        ("reasons", found.reasons.to_dicts()),
        ("unresolved", found.unresolved.to_dicts()),
        ("quantization", found.quantization.to_dicts()),
    ):
        if rows:
            click.echo(f"\n{title}")
            print_table(rows)


def _run(run: RunFigures) -> dict[str, object]:
    """A run as a row of a table that fits a terminal."""
    from provenance.output import show_bytes

    requests = (run.api_requests, run.resolve_requests, run.range_requests)
    budgets = [
        f"{name} {b.quota or '?'} in {b.window or '?'} s" + ("" if b.share is None else f": {b.share:.0%}")
        for name, b in (run.budgets or {}).items()
    ]
    return {
        "started": run.started_at,
        "finished": run.finished_at,
        "listed": run.listed,
        "fingerprinted": run.fingerprinted,
        "skipped": run.skipped,
        "failed": run.failed,
        "an hour": None if run.rate is None else f"{run.rate:,.0f}",
        "read": show_bytes(run.bytes_read or 0),
        "api/resolve/range": "/".join(f"{n or 0:,}" for n in requests),
        "waited, s": None if run.waited is None else f"{run.waited:.0f}",
        "budgets": "; ".join(budgets) or None,
        "stopped": run.stopped,
    }
