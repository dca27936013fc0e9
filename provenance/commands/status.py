"""`provenance status`."""

from __future__ import annotations

import click

from provenance.commands.options import json_option, store_option


@click.command()
@store_option
@json_option
def status(store: str | None, output: str | None) -> None:
    """Show what the store holds, what the last crawls did, and what failed.

    \b
    Examples:
      provenance status
      provenance status --format json
    """
    from provenance import open as open_database
    from provenance.output import choose_format, print_json, print_table, show_bytes

    with open_database(store) as database:
        found = database.status()
    if choose_format(output) == "json":
        print_json(found)
        return
    figures = found["store"]
    click.echo(
        f"{figures['path']}: {figures['checkpoints']} checkpoints of {figures['repos']} repos, "
        f"{figures['unindexed']} not indexed; {show_bytes(figures['bytes_on_disk'])} on disk, "
        f"{show_bytes(figures['bytes_read'])} of weights read"
    )
    for title in ("runs", "reasons", "unresolved"):
        if found[title]:
            click.echo(f"\n{title}")
            print_table(found[title])
