"""`provenance compare`."""

from __future__ import annotations

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
    from collections.abc import Sequence

    from provenance.crawler.engine.options import CrawlOptions
    from provenance.schemas.comparison import Comparison, RoleChange

CHANGES_TO_GO = ("new columns", "repeated values", "zeros", "most in layer", "new rows")
"""Columns of the changes that a narrow terminal does without, in this order."""


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

    Weights that were permuted, rotated or rescaled to hide their origin show it where both were read whole. Others need
    --deep: one crawled from the hub is read from there again, one crawled from a folder must be named by that folder.

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
    if found.changes:
        print_title("what changed from B to A, over the sampled cells")
        print_rows(_changes(found.changes), "table", wide=wide, first_to_go=CHANGES_TO_GO)
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


def _changes(changes: Sequence[RoleChange]) -> list[dict[str, object]]:
    """The changes as rows, without columns in which there is nothing."""
    rows = [_change(row) for row in changes]
    return [
        {name: cell for name, cell in row.items() if any(other[name] not in (None, "") for other in rows)}
        for row in rows
    ]


def _change(row: RoleChange) -> dict[str, object]:
    """One role in a line: sizes are root mean squares, in percent of the weights before."""
    known = [(energy, layer) for energy, layer in zip(row.energies, row.layers, strict=True) if energy is not None]
    most = max(known, default=None)
    layers = [layer for layer in row.layers if layer >= 0]
    frozen = [layer for layer in row.unchanged if layer >= 0]
    return {
        "role": row.role,
        "layers": _runs(layers),
        "unchanged": "all" if row.equal else _runs(frozen) or ("unknown" if row.equal is None else ""),
        "change": None if row.energy is None else f"{100 * row.energy**0.5:.1f} %",
        "most in layer": None if most is None or most[0] == 0 or most[1] < 0 else most[1],
        "rank": row.rank if row.rank is not None else f"over {row.rank_limit // 2}" if row.rank_limit else None,
        "zeros": _moved(row.zeros_before, row.zeros),
        "repeated values": _moved(row.repeats_before, row.repeats),
        "new rows": row.new_rows or None,
        "new columns": row.new_columns or None,
    }


def _moved(before: float | None, after: float | None) -> str | None:
    return None if before is None or after is None else f"{100 * before:.0f} → {100 * after:.0f} %"


def _runs(numbers: Sequence[int]) -> str:
    """Rising numbers as runs: `0-3, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
