"""`provenance verify`."""

from __future__ import annotations

import click

from provenance.commands.options import store_option


@click.command()
@store_option
def verify(store: str | None) -> None:
    """Check the store's integrity: every part is readable and complete, and no key occurs twice.

    Every file of the index is compared with the digest taken when it was built.

    \b
    Examples:
      provenance verify
    """
    from provenance import open as open_database
    from provenance.output import clean, say
    from provenance.output.progress import progress

    with open_database(store) as database, progress("verifying") as advance:
        problems = database.verify(advance)
    for problem in problems:
        click.echo(clean(problem))
    if problems:
        raise SystemExit(1)
    say("the store is sound")
