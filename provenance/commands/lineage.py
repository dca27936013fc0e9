"""`provenance lineage`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provenance.commands.options import model_argument, store_option, wide_option
from provenance.output import FORMATS

if TYPE_CHECKING:
    from rich.text import Text

    from provenance.query.lineage.forest import Forest

SHOWN = ("child", "parent", "relation", "verdict", "direction", "log10_p", "declared", "undeclared", "license_differs")
"""Columns of the table for people; --wide and the other formats have all."""

GUIDE = 4
"""Width of one level of a tree."""


@click.command()
@model_argument("model", required=False)
@store_option
@click.option(
    "--format",
    "output",
    type=click.Choice(["tree", "dot", "mergekit", *FORMATS]),
    help="Default: tree on a terminal, json elsewhere. mergekit: the recipe of a merge, in YAML.",
)
@wide_option
@click.option("--descendants", is_flag=True, help="Only what descends from MODEL.")
@click.option("--refresh", is_flag=True, help="First examine new checkpoints and what may descend from them.")
def lineage(
    model: str | None, store: str | None, output: str | None, wide: bool, descendants: bool, refresh: bool
) -> None:
    """Show the graph around MODEL, or all of it.

    MODEL is a checkpoint id or repo id in the store, or a local folder (./…). The graph is the table `lineage`, which
    --refresh brings up to date: the claims about every stored checkpoint, and what the cards declare.

    \b
    Examples:
      provenance lineage --refresh
      provenance lineage org/name --format tree
      provenance lineage org/name --descendants --format dot | dot -Tsvg > tree.svg
      provenance lineage org/merge --format mergekit
    """
    import sys

    from provenance import open as open_database
    from provenance.output import clean_lines, print_arrow, say
    from provenance.output.progress import progress
    from provenance.query.lineage.forest import Forest, to_dot
    from provenance.schemas.tabular import Rows

    if output == "mergekit" and model is None:
        raise click.UsageError("--format mergekit prints the recipe of one merge: name the MODEL")
    with open_database(store) as database:
        if refresh:
            found = database.refresh_lineage()
            with progress("examining") as advance:
                for done, _ in enumerate(found, start=1):
                    advance(done, found.total)  # which grows with what may descend from new ones
            say(f"{found.total} checkpoints examined")
        if output == "mergekit" and model is not None:
            click.echo(clean_lines(database.recipe(model)), nl=False)
            return
        rows = database.lineage()
        repo = database.find(model, fetch=False).repo_id if model else None
    forest = Forest(rows)
    node = forest.node(repo) if repo else None
    tops, keep = ([node], None) if node and descendants else forest.around(node) if node else (forest.roots(), None)
    chosen = output or ("tree" if sys.stdout.isatty() else "json")
    if chosen == "tree":
        _print_tree(forest, tops, keep, node, wide=wide)
    elif chosen == "dot":
        click.echo(to_dot(forest, tops, keep))
    else:
        if node:
            nodes = keep if keep is not None else {node, *(edge.child for _, edge in forest.walk(node))}
            names = {repo for one in nodes for repo in forest.repos(one)}
            rows = Rows(rows.kind, (row for row in rows if row.child in names))
        table = rows.to_arrow()
        if chosen in ("table", "markdown") and not wide:
            table = table.select([name for name in SHOWN if name in table.column_names])
        print_arrow(table, chosen, wide=wide)


def _print_tree(forest: Forest, tops: list[str], keep: frozenset[str] | None, model: str | None, *, wide: bool) -> None:
    from rich.text import Text
    from rich.tree import Tree

    from provenance.output import clean
    from provenance.output.terminal import console
    from provenance.query.lineage.forest import label

    out = console()
    for top in tops:
        branches = [Tree(_name(forest, top, model))]
        for depth, edge in forest.walk(top, keep):
            del branches[depth:]
            said = f"  {clean(label(edge))}"
            text = _name(forest, edge.child, model, None if wide else out.width - GUIDE * depth - len(said))
            branches.append(branches[-1].add(text + Text(said, style="dim")))
        out.print(branches[0], soft_wrap=True)
    if not tops:
        out.print("no derivations found")


def _name(forest: Forest, node: str, model: str | None, room: int | None = None) -> Text:
    """What a node is called, shortened to the room that there is, but never so much that it cannot be recognised."""
    from rich.text import Text

    from provenance.output import clean, shorten
    from provenance.output.tables import MIN_ID

    title = clean(forest.title(node))
    shown = title if room is None else shorten(title, max(MIN_ID, room))
    return Text(shown, style="bold" if node == model else "")
