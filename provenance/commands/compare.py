"""`provenance compare`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from provenance.commands.options import (
    deep_option,
    explain_option,
    fetch_option,
    format_option,
    model_argument,
    store_option,
    wide_option,
)

if TYPE_CHECKING:
    from provenance.crawler.engine.options import CrawlOptions
    from provenance.schemas.results import Comparison


@click.command()
@model_argument("a")
@model_argument("b")
@store_option
@format_option
@wide_option
@explain_option
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE", help="Draw curves and cells (.png or .svg).")
@fetch_option
@deep_option
@click.option(
    "--created",
    multiple=True,
    type=click.DateTime(),
    help="When A was created (UTC), where no listing says it; given twice, A and B.",
)
@click.option("--license", "licenses", multiple=True, metavar="ID", help="License of A; given twice, of A and B.")
def compare(
    a: str,
    b: str,
    store: str | None,
    output: str | None,
    wide: bool,
    explain: bool,
    plot: str | None,
    fetch: bool,
    deep: bool,
    created: tuple[datetime, ...],
    licenses: tuple[str, ...],
) -> None:
    """Show every line of evidence for B as a parent of A.

    A and B are checkpoint ids or repo ids in the store, or local folders (./…); with --fetch also repos of the hub. The
    scores of the curves are shown with those of stored strangers of the same shape, which show what the architecture
    alone explains. Formats other than table and json have one row for every line of evidence.

    Weights that were permuted, rotated or rescaled to hide their origin need --deep. A checkpoint crawled from the
    hub is read from there again; one crawled from a folder must be named by that folder.

    \b
    Examples:
      provenance compare org/child org/parent
      provenance compare org/child org/parent --explain
      provenance compare ./mine org/parent --plot pair.svg
      provenance compare --deep ./mine ./theirs
    """
    from provenance import open as open_database
    from provenance.output import choose_format, print_json, print_rows
    from provenance.output.progress import say_reading

    chosen = "table" if explain and output is None else choose_format(output)
    with open_database(store) as database:
        found = database.compare(
            a,
            b,
            plot=plot,
            deep=deep,
            fetch=fetch,
            options=_stated(created, licenses, 0),
            options_b=_stated(created, licenses, 1),
            before_reading=say_reading,
        )
    if chosen == "json":
        print_json(found.to_dict())
    elif chosen == "table":
        _print(found, wide=wide, explain=explain)
    else:
        print_rows(found.evidence.to_dicts(), chosen)


def _stated(created: Sequence[datetime], licenses: Sequence[str], place: int) -> CrawlOptions | None:
    """What is said of the model at a place; null where nothing is."""
    if max(len(created), len(licenses)) > 2:
        raise click.UsageError("--created and --license are given at most twice, for A and for B")
    if max(len(created), len(licenses)) <= place:
        return None
    from provenance.crawler.engine.options import CrawlOptions

    return CrawlOptions(
        created_at=created[place].replace(tzinfo=UTC) if len(created) > place else None,
        license=licenses[place] if len(licenses) > place else None,
    )


def _print(found: Comparison, *, wide: bool, explain: bool) -> None:
    from provenance.output import clean, print_rows
    from provenance.output.sections import print_headline, print_reasons, print_title
    from provenance.output.words import comparison_reasons, comparison_sentence, explanation

    title = f"{clean(found.b.repo_id)} as a parent of {clean(found.a.repo_id)}"
    print_headline(title, found.verdict, comparison_sentence(found))
    print_reasons(comparison_reasons(found))
    print_title("evidence")
    if explain:
        print_reasons(explanation(found.evidence))
    else:
        rows = [{name: getattr(e, name) for name in ("kind", "value", "log10_p", "n", "note")} for e in found.evidence]
        print_rows(rows, "table", wide=wide, wraps=("note",))
    _print_curves(found, wide=wide)


def _print_curves(found: Comparison, *, wide: bool) -> None:
    """The scores of the curves, beside those of strangers if there are any."""
    from provenance.output import print_rows
    from provenance.output.sections import print_title

    scores = {name: value for name, value in found.curves.to_dict().items() if value is not None}
    if not scores:
        return
    strangers = found.controls.n
    beside = {0: "without a stored stranger", 1: "beside a stored stranger"}
    print_title(f"curves, {beside.get(strangers, f'beside {strangers} stored strangers')} of the same shape")
    rows = []
    for name, value in scores.items():
        spread = getattr(found.controls, name)
        words = (
            {f"strangers' {word}": getattr(spread, word) for word in ("median", "lowest", "highest")} if spread else {}
        )
        rows.append({"score": name, "this pair": value, **words})
    print_rows(rows, "table", wide=wide)
