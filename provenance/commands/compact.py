"""`provenance compact`."""

from __future__ import annotations

import click

from provenance.commands.options import store_option


@click.command()
@store_option
def compact(store: str | None) -> None:
    """Merge small parts of the store. Safe while others read and crawl.

    \b
    Examples:
      provenance compact
    """
    from provenance import open as open_database

    with open_database(store) as database:
        before = sum(len(parts) for parts in database.store.manifest().parts.values())
        after = sum(len(parts) for parts in database.store.compact().parts.values())
        database.store.write_views()
    click.echo(f"{before} parts became {after}", err=True)
