"""`provenance compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provenance.commands.options import deep_option, json_option, store_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.schemas.differences import RoleChange
    from provenance.schemas.results import Comparison


@click.command()
@click.argument("a")
@click.argument("b")
@store_option
@json_option
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE", help="Draw curves and cells (.png or .svg).")
@deep_option
def compare(a: str, b: str, store: str | None, output: str | None, plot: str | None, deep: bool) -> None:
    """Show every line of evidence for B as a parent of A.

    A and B are checkpoint ids or repo ids in the store, or local folders (./…). The scores of the curves are shown with
    those of stored strangers of the same shape, which show what the architecture alone explains.

    Weights that were permuted, rotated or rescaled to hide their origin show it where both were read whole. Others need
    --deep: one crawled from the hub is read from there again, one crawled from a folder must be named by that folder.

    \b
    Examples:
      provenance compare org/child org/parent
      provenance compare ./mine org/parent --plot pair.svg
      provenance compare --deep ./mine ./theirs
    """
    from provenance import open as open_database
    from provenance.output import choose_format, print_json, say_reading

    with open_database(store) as database:
        found = database.compare(a, b, plot=plot, deep=deep, before_reading=say_reading)
    if choose_format(output) == "json":
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: Comparison) -> None:
    from provenance.output import clean, print_table

    click.echo(
        f"{clean(found.b.repo_id)} as seen from {clean(found.a.repo_id)}: "
        f"{found.verdict}, direction {found.direction}, relation {found.relation}"
    )
    click.echo(f"p {found.p_value:.2g}, over the store {found.p_adjusted:.2g}")
    for note in found.notes:
        click.echo(clean(f"{note.checkpoint_id}: {note.text}"))
    click.echo()
    print_table(
        [{name: getattr(e, name) for name in ("kind", "value", "log10_p", "n", "note")} for e in found.evidence]
    )
    if found.changes:
        click.echo("\nwhat changed from B to A, over the sampled cells")
        print_table([_change(row) for row in found.changes])
    click.echo(f"\ncurves, beside {found.controls.n} stored strangers of the same shape")
    words = ("median", "lowest", "highest") if found.controls.n else ("lowest", "median", "highest")
    rows = []
    for name, value in found.curves.to_dict().items():
        spread = getattr(found.controls, name)
        strangers = {f"strangers' {word}": getattr(spread, word, None) for word in words}
        rows.append({"score": name, "this pair": value, **strangers})
    print_table(rows)


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
