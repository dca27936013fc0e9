"""`provenance show`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from provenance.commands.options import (
    created_option,
    fetch_option,
    format_option,
    license_option,
    model_argument,
    store_option,
    wide_option,
)


@click.command()
@model_argument("model")
@store_option
@format_option
@wide_option
@fetch_option
@created_option
@license_option
def show(
    model: str,
    store: str | None,
    output: str | None,
    wide: bool,
    fetch: bool,
    created: datetime | None,
    license_: str | None,
) -> None:
    """Show what is known about MODEL: metadata, roles found and unknown, and curves.

    MODEL is a checkpoint id or repo id in the store, or a local folder (./…); with --fetch also a repo of the hub.
    Formats other than table and json have one row for every role.

    \b
    Examples:
      provenance show org/name
      provenance show ./my-model --format json
    """
    from provenance import open as open_database
    from provenance.output import choose_format, clean, print_json, print_rows
    from provenance.output import show as shown
    from provenance.output.sections import print_reasons, print_title
    from provenance.output.words import Reason

    chosen = choose_format(output)
    options = None
    if created or license_:
        from provenance.crawler.engine.options import CrawlOptions

        options = CrawlOptions(created_at=created and created.replace(tzinfo=UTC), license=license_)
    with open_database(store) as database:
        found = database.show(model, options, fetch=fetch)
    if chosen == "json":
        print_json(found.to_dict())
        return
    if chosen != "table":
        print_rows(found.roles.to_dicts(), chosen)
        return
    for name, value in found.model.to_dict().items():
        if value not in (None, [], ""):
            click.echo(f"{name:<20}{shown(value)}")
    if found.notes:
        print_title("notes")
        print_reasons([Reason(note.kind, clean(note.text)) for note in found.notes])
    print_title("roles")
    if found.roles:
        print_rows(found.roles.to_dicts(), "table", wide=wide, first_to_go=("read", "mean_std"))
    else:
        click.echo("none: no tensor of it has a role that is known")
    measured = {role: curve for role, curve in found.curves["std"].items() if curve}
    if measured:
        print_title("standard deviation over the layers")
    for role, curve in measured.items():
        click.echo(f"  {role:<4}{_sparkline(curve)}")


def _sparkline(curve: Sequence[float | None]) -> str:
    """A curve as bars with its range; a dot where nothing was measured."""
    measured = [value for value in curve if value is not None]
    if not measured:
        return "·" * len(curve)
    low, high = min(measured), max(measured)
    span = (high - low) or 1.0
    bars = ("·" if value is None else "▁▂▃▄▅▆▇█"[min(7, int(8 * (value - low) / span))] for value in curve)
    return f"{''.join(bars)}  {low:.4g} … {high:.4g}"
