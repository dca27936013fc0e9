"""`provenance index`."""

from __future__ import annotations

import click

from provenance.commands.options import store_option


@click.command()
@store_option
@click.option(
    "--kind",
    type=click.Choice(["auto", "flat", "exact"]),
    default="auto",
    show_default=True,
    help="flat: FAISS, exact: plain numpy; both search exhaustively. auto: flat.",
)
@click.option("--spec", default="qkvo-std-z-64", show_default=True, help="Signature to index; the only one so far.")
@click.option(
    "--skip-damaged", is_flag=True, help="Leave out the checkpoints with rows in damaged parts, instead of refusing."
)
def index(store: str | None, kind: str, spec: str, skip_damaged: bool) -> None:
    """Build the search index over the store.

    Computes the signatures and sketches that queries search, and learns how high unrelated checkpoints score. Queries
    are correct without it, but slower: checkpoints that are not indexed are scanned one by one.

    \b
    Examples:
      provenance index
      provenance index --kind exact
    """
    from provenance import open as open_database
    from provenance.output import say
    from provenance.output.progress import progress

    with open_database(store) as database, progress("indexing") as advance:
        built = database.index(kind=kind, spec=spec, skip_damaged=skip_damaged, advance=advance)
    say(f"indexed {built.checkpoints} checkpoints ({built.spec}) as {built.generation}")
