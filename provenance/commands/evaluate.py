"""`provenance evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from provenance.commands.options import format_option, store_option, wide_option

if TYPE_CHECKING:
    from provenance.schemas.evaluation import Evaluation


@click.command()
@click.argument("truth", type=click.Path(exists=True, dir_okay=False), required=False)
@store_option
@format_option
@wide_option
@click.option("--declared", is_flag=True, help="Measure against what the cards declare; needs no TRUTH.")
@click.option(
    "--save", type=click.File("w", encoding="utf-8"), help="Also write the whole result as JSON into this file."
)
def evaluate(
    truth: str | None, store: str | None, output: str | None, wide: bool, declared: bool, save: TextIO | None
) -> None:
    """Measure the answers against TRUTH, a CSV of true lineage, or with --declared against the cards.

    TRUTH has the columns model, parents (';' between them), root, relation, attack and weights_derived; it may have
    scenario, and weights of a merge's parents (';' between them). Every checkpoint of it that the store holds is
    queried. Directions are also measured without dates and cards, and with dates dealt out at random. Markdown is the
    whole report; ndjson, csv and parquet have one row for every model of it.

    Where no truth is known, --declared says how often a declared base model is found, and which the weights
    contradict. Cards may be wrong, and name the grandparent or only one of several parents.

    \b
    Examples:
      provenance evaluate lineage.csv
      provenance evaluate lineage.csv --save result.json
      provenance evaluate --declared
    """
    from provenance import open as open_database
    from provenance.output import choose_format, clean, print_arrow, print_json, to_json
    from provenance.output.progress import progress
    from provenance.query.evaluation.markdown import as_markdown, declared_as_markdown
    from provenance.schemas.evaluation import DeclaredEvaluation

    if (truth is None) == (not declared):
        raise click.UsageError("give either TRUTH, a CSV of true lineage, or --declared")
    result: Evaluation | DeclaredEvaluation
    with open_database(store) as database, progress("evaluating") as advance:
        result = database.evaluate_declared() if truth is None else database.evaluate(truth, advance)
    if save:
        click.echo(to_json(result.to_dict()), save)
    chosen = choose_format(output)
    if chosen == "json":
        print_json(result.to_dict())
    elif isinstance(result, DeclaredEvaluation):
        if chosen in ("table", "markdown"):
            for line in declared_as_markdown(result).splitlines():
                click.echo(clean(line))
        else:
            print_arrow(result.parents.to_arrow(), chosen)
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
        "directions, by the dates that were known": result.orderings.to_dicts(),
        "directions, by scenario": result.scenarios.to_dicts(),
    }
    for title, rows in tables.items():
        if rows:
            print_title(title)
            print_rows(rows, "table", wide=wide)
    if result.merges.merges:
        print_title("merges")
        click.echo(f"{result.merges.parents_named} of {result.merges.merges} have just their parents named.")
