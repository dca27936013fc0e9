"""`provenance import`."""

from __future__ import annotations

import click

from provenance.commands.options import store_option


@click.command("import")
@click.argument("other", metavar="STORE", type=click.Path(exists=True, file_okay=False))
@store_option
def import_(other: str, store: str | None) -> None:
    """Copy the checkpoints of another store, the folder STORE, into this one.

    Both must have the same versions of fingerprints and samples. Checkpoints that are already here are not changed, and
    repos that were forgotten here stay forgotten. The other store's outcomes, runs and lineage are not copied: run
    `provenance index` and `provenance lineage --refresh` afterwards. An interrupted import resumes when it is run
    again.

    \b
    Examples:
      provenance import ../their-store
      provenance import ../their-store --store ./merged && provenance index --store ./merged
    """
    from provenance import open as open_database
    from provenance.indexer.store.store import Store
    from provenance.output import say
    from provenance.output.progress import progress

    Store.open(other)  # before the store is created: a mistyped one should create nothing
    with open_database(store, create=True) as database, progress("importing") as advance:
        taken = database.take_over(other, advance)
    say(
        f"{taken.imported} checkpoints imported, {taken.known} were known; "
        f"refused: {taken.forgotten} forgotten here, {taken.malformed} malformed"
    )
