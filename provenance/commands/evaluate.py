"""`provenance evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from provenance.commands.options import format_option, store_option, wide_option

if TYPE_CHECKING:
    from provenance.schemas.evaluation import Evaluation


@click.command()
@click.argument("truth", type=click.Path(exists=True, dir_okay=False))
@store_option
@format_option
@wide_option
@click.option(
    "--save", type=click.File("w", encoding="utf-8"), help="Also write the whole result as JSON into this file."
)
def evaluate(truth: str, store: str | None, output: str | None, wide: bool, save: TextIO | None) -> None:
    """Measure the answers against TRUTH, a CSV of true lineage.

    TRUTH has the columns model, parents (';' between them), root, relation, attack and weights_derived. Every
    checkpoint of it that the store holds is queried. Markdown is the whole report; ndjson, csv and parquet have one row
    for every model of it.

    \b
    Examples:
      provenance evaluate lineage.csv
      provenance evaluate lineage.csv --save result.json
    """
    from provenance import open as open_database
    from provenance.output import choose_format, print_arrow, print_json, to_json
    from provenance.output.progress import progress
    from provenance.query.evaluation.markdown import as_markdown

    with open_database(store) as database, progress("evaluating") as advance:
        result = database.evaluate(truth, advance)
    if save:
        click.echo(to_json(result.to_dict()), save)
    chosen = choose_format(output)
    if chosen == "json":
        print_json(result.to_dict())
    elif chosen == "markdown":
        click.echo(as_markdown(result))
    elif chosen == "table":
        _print(result, wide=wide)
    else:
        print_arrow(result.models_detail.to_arrow(), chosen)


def _print(result: Evaluation, *, wide: bool) -> None:
    from provenance.output import clean, print_rows
    from provenance.output.sections import print_title

    models, accusations = result.models, result.accusations
    click.echo(f"{models.stored} of {models.in_table} models of the table are stored.")
    click.echo(f"{accusations.accused} of {accusations.unrelated_pairs} unrelated pairs accused.")
    for pair in accusations.who:
        click.echo(f"  {clean(pair.model)}: {clean(pair.candidate)} called {pair.verdict}")
    groups = [{"models of": group, **figures.to_dict()} for group, figures in result.retrieval.items()]
    tables = {
        "found among the first candidates": [row for row in groups if row["models"]],
        "verdicts by relation": result.verdicts.to_dicts(),
        "each line of evidence alone": result.lines.to_dicts(),
        "with a line left out": result.ablation.to_dicts(),
        "calibration": result.calibration.to_dicts(),
    }
    for title, rows in tables.items():
        if rows:
            print_title(title)
            print_rows(rows, "table", wide=wide)
