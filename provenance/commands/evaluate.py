"""`provenance evaluate`."""

from __future__ import annotations

from typing import TextIO

import click

from provenance.commands.options import json_option, store_option


@click.command()
@click.argument("truth", type=click.Path(exists=True, dir_okay=False), required=False)
@store_option
@json_option
@click.option("--declared", is_flag=True, help="Measure against what the cards declare; needs no TRUTH.")
@click.option(
    "--save", type=click.File("w", encoding="utf-8"), help="Also write the whole result as JSON into this file."
)
def evaluate(truth: str | None, store: str | None, output: str | None, declared: bool, save: TextIO | None) -> None:
    """Measure the answers against TRUTH, a CSV of true lineage, or with --declared against the cards.

    TRUTH has the columns model, parents (';' between them), root, relation, attack and weights_derived. Every
    checkpoint of it that the store holds is queried.

    Where no truth is known, --declared says how often a declared base model is found, and which the weights
    contradict. Cards may be wrong, and name the grandparent or only one of several parents.

    \b
    Examples:
      provenance evaluate lineage.csv
      provenance evaluate lineage.csv --save result.json
      provenance evaluate --declared
    """
    from provenance import open as open_database
    from provenance.output import choose_format, clean, print_json, to_json
    from provenance.query.evaluation.markdown import as_markdown, declared_as_markdown
    from provenance.schemas.evaluation import DeclaredEvaluation, Evaluation

    if (truth is None) == (not declared):
        raise click.UsageError("give either TRUTH, a CSV of true lineage, or --declared")
    result: Evaluation | DeclaredEvaluation
    with open_database(store) as database:
        result = database.evaluate_declared() if truth is None else database.evaluate(truth)
    if save:
        click.echo(to_json(result.to_dict()), save)
    if choose_format(output) == "json":
        print_json(result.to_dict())
    elif isinstance(result, DeclaredEvaluation):
        for line in declared_as_markdown(result).splitlines():
            click.echo(clean(line))
    else:
        click.echo(as_markdown(result))
