"""`provenance status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from provenance.commands.options import format_option, store_option, wide_option

if TYPE_CHECKING:
    from provenance.schemas.figures import RunFigures, StoreStatus


@click.command()
@store_option
@format_option
@wide_option
@click.option(
    "--since", metavar="WHEN", help="List what arrived since a date or time (UTC), a run (its id), or the `last` run."
)
def status(store: str | None, output: str | None, wide: bool, since: str | None) -> None:
    """Show what the store holds, what the last crawls did, and what failed.

    With --since: one row for every checkpoint that was fingerprinted since then. Without it, formats other than table
    and json have one row for each of the last runs.

    \b
    Examples:
      provenance status
      provenance status --format json
      provenance status --since last --format csv
    """
    from provenance import open as open_database
    from provenance.output import choose_format, print_arrow, print_json

    chosen = choose_format(output)
    with open_database(store) as database:
        if since is not None:
            print_arrow(database.arrivals(since).to_arrow(), chosen, wide=wide)
            return
        found = database.status()
    if chosen == "json":
        print_json(found.to_dict())
    elif chosen == "table":
        _print(found, wide=wide)
    else:
        print_arrow(found.runs.to_arrow(), chosen)


def _print(found: StoreStatus, *, wide: bool) -> None:
    from provenance.output import clean, print_rows, show_bytes
    from provenance.output.sections import print_title

    figures = found.store
    click.echo(
        f"{clean(figures.path)}: {figures.checkpoints} checkpoints of {figures.repos} repos, "
        f"{figures.unindexed} not indexed; {show_bytes(figures.bytes_on_disk)} on disk, "
        f"{show_bytes(figures.bytes_read)} of weights read"
    )
    for title, rows, first_to_go, wraps in (
        ("runs", _runs(found.runs), ("budgets", "api/resolve/range", "waited, s", "an hour", "finished"), ()),
        ("reasons", found.reasons.to_dicts(), ("stage", "error"), ("example",)),
        ("unresolved", found.unresolved.to_dicts(), ("example",), ("notes",)),
        ("quantization", found.quantization.to_dicts(), (), ()),
    ):
        if rows:
            print_title(title)
            print_rows(rows, "table", wide=wide, first_to_go=first_to_go, wraps=wraps)


def _runs(runs: Sequence[RunFigures]) -> list[dict[str, object]]:
    """The last runs as rows, without columns in which there is nothing."""
    rows = [_run(run) for run in runs]
    empty = {name for name in ("waited, s", "budgets", "stopped") if all(row[name] is None for row in rows)}
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]


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
