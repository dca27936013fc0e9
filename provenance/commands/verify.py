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

    with open_database(store) as database:
        problems = database.verify()
    for problem in problems:
        click.echo(problem)
    if problems:
        raise SystemExit(1)
    click.echo("the store is sound", err=True)
