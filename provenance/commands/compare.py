"""`provenance compare`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from provenance.commands.options import deep_option, json_option, store_option

if TYPE_CHECKING:
    from provenance.crawler.engine.options import CrawlOptions
    from provenance.schemas.results import Comparison


@click.command()
@click.argument("a")
@click.argument("b")
@store_option
@json_option
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE", help="Draw curves and cells (.png or .svg).")
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
    plot: str | None,
    deep: bool,
    created: tuple[datetime, ...],
    licenses: tuple[str, ...],
) -> None:
    """Show every line of evidence for B as a parent of A.

    A and B are checkpoint ids or repo ids in the store, or local folders (./…). The scores of the curves are shown with
    those of stored strangers of the same shape, which show what the architecture alone explains.

    Weights that were permuted, rotated or rescaled to hide their origin need --deep. A checkpoint crawled from the
    hub is read from there again; one crawled from a folder must be named by that folder.

    \b
    Examples:
      provenance compare org/child org/parent
      provenance compare ./mine org/parent --plot pair.svg
      provenance compare --deep ./mine ./theirs
    """
    from provenance import open as open_database
    from provenance.output import choose_format, print_json, say_reading

    with open_database(store) as database:
        found = database.compare(
            a,
            b,
            plot=plot,
            deep=deep,
            options=_stated(created, licenses, 0),
            options_b=_stated(created, licenses, 1),
            before_reading=say_reading,
        )
    if choose_format(output) == "json":
        print_json(found.to_dict())
    else:
        _print(found)


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


def _print(found: Comparison) -> None:
    from provenance.output import clean, print_table

    click.echo(
        f"{clean(found.b.repo_id)} as seen from {clean(found.a.repo_id)}: "
        f"{found.verdict}, direction {found.direction}, relation {found.relation}"
    )
    click.echo(f"p {found.p_value:.2g}, over the store {found.p_adjusted:.2g}\n")
    print_table(
        [{name: getattr(e, name) for name in ("kind", "value", "log10_p", "n", "note")} for e in found.evidence]
    )
    click.echo(f"\ncurves, beside {found.controls.n} stored strangers of the same shape")
    words = ("median", "lowest", "highest") if found.controls.n else ("lowest", "median", "highest")
    rows = []
    for name, value in found.curves.to_dict().items():
        spread = getattr(found.controls, name)
        strangers = {f"strangers' {word}": getattr(spread, word, None) for word in words}
        rows.append({"score": name, "this pair": value, **strangers})
    print_table(rows)
