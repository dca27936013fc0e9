"""`provenance show`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from provenance.commands.options import created_option, json_option, license_option, store_option


@click.command()
@click.argument("model")
@store_option
@json_option
@created_option
@license_option
def show(model: str, store: str | None, output: str | None, created: datetime | None, license_: str | None) -> None:
    """Show what is known about MODEL: metadata, roles found and unknown, and curves.

    MODEL is a checkpoint id or repo id in the store, or a local folder (./…).

    \b
    Examples:
      provenance show org/name
      provenance show ./my-model --format json
    """
    from provenance import open as open_database
    from provenance.output import choose_format, print_json, print_table
    from provenance.output import show as shown

    options = None
    if created or license_:
        from provenance.crawler.engine.options import CrawlOptions

        options = CrawlOptions(created_at=created and created.replace(tzinfo=UTC), license=license_)
    with open_database(store) as database:
        found = database.show(model, options)
    if choose_format(output) == "json":
        print_json(found.to_dict())
        return
    for name, value in found.model.to_dict().items():
        if value not in (None, [], ""):
            click.echo(f"{name:<20}{shown(value)}")
    click.echo("\nroles")
    print_table(found.roles.to_dicts())
    click.echo("\nstandard deviation over the layers")
    for role, curve in found.curves["std"].items():
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
