"""`provenance evaluate`."""

from __future__ import annotations

from typing import TextIO

import click

from provenance.commands.options import json_option, store_option


@click.command()
@click.argument("truth", type=click.Path(exists=True, dir_okay=False))
@store_option
@json_option
@click.option(
    "--save", type=click.File("w", encoding="utf-8"), help="Also write the whole result as JSON into this file."
)
def evaluate(truth: str, store: str | None, output: str | None, save: TextIO | None) -> None:
    """Measure the answers against TRUTH, a CSV of true lineage.

    TRUTH has the columns model, parents (';' between them), root, relation, attack and weights_derived; it may have
    scenario, and weights of a merge's parents (';' between them). Every checkpoint of it that the store holds is
    queried. Directions are also measured without dates and cards, and with dates dealt out at random.

    \b
    Examples:
      provenance evaluate lineage.csv
      provenance evaluate lineage.csv --save result.json
    """
    from provenance import open as open_database
    from provenance.output import choose_format, print_json, to_json
    from provenance.query.evaluation.markdown import as_markdown

    with open_database(store) as database:
        result = database.evaluate(truth)
    if save:
        click.echo(to_json(result.to_dict()), save)
    if choose_format(output) == "json":
        print_json(result.to_dict())
    else:
        click.echo(as_markdown(result))
