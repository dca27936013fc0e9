"""`provenance compact`."""

from __future__ import annotations

import click

from provenance.commands.options import store_option


@click.command()
@store_option
def compact(store: str | None) -> None:
    """Merge small parts of the store, and remove what was forgotten. Safe while others read and crawl.

    Replaced parts are removed an hour later, by the next command that writes, so that readers are not disturbed.

    \b
    Examples:
      provenance compact
    """
    from provenance import open as open_database
    from provenance.output import say
    from provenance.output.progress import progress

    with open_database(store) as database, progress("compacting") as advance:
        done = database.compact(advance)
    say(f"{done.parts_before} parts became {done.parts}")
    if done.rows_dropped:
        say(f"dropped of forgotten repos: {done.checkpoints_dropped} checkpoints, {done.rows_dropped} rows in all")
    if done.still_indexed:
        say(f"the index still holds {done.still_indexed} forgotten checkpoints, unseen; run `provenance index`")
