"""`provenance lineage`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provenance.commands.options import store_option

if TYPE_CHECKING:
    from rich.text import Text

    from provenance.query.lineage.forest import Forest


@click.command()
@click.argument("model", required=False)
@store_option
@click.option(
    "--format",
    "output",
    type=click.Choice(["tree", "dot", "json", "csv"]),
    help="Default: tree on a terminal, json elsewhere.",
)
@click.option("--descendants", is_flag=True, help="Only what descends from MODEL.")
@click.option("--refresh", is_flag=True, help="First examine new checkpoints and their relatives.")
def lineage(model: str | None, store: str | None, output: str | None, descendants: bool, refresh: bool) -> None:
    """Show the graph around MODEL, or all of it.

    The graph is the table `lineage`, which --refresh brings up to date: the claims about every stored checkpoint, and
    what the cards declare.

    \b
    Examples:
      provenance lineage --refresh
      provenance lineage org/name --format tree
      provenance lineage org/name --descendants --format dot | dot -Tsvg > tree.svg
    """
    import sys

    from provenance import open as open_database
    from provenance.output import print_rows
    from provenance.query.lineage.forest import Forest, to_dot

    with open_database(store) as database:
        if refresh:
            with click.progressbar(
                database.refresh_lineage(), label="examining", file=sys.stderr, show_pos=True
            ) as examined:
                count = sum(1 for _ in examined)
            click.echo(f"{count} checkpoints examined", err=True)
        rows = database.lineage()
        repo = database.find(model).repo_id if model else None
    forest = Forest(rows)
    node = forest.node(repo) if repo else None
    tops, keep = ([node], None) if node and descendants else forest.around(node) if node else (forest.roots(), None)
    chosen = output or ("tree" if sys.stdout.isatty() else "json")
    if chosen == "tree":
        _print_tree(forest, tops, keep, node)
    elif chosen == "dot":
        click.echo(to_dot(forest, tops, keep))
    else:
        printed = rows.to_arrow().to_pylist()
        if node:
            nodes = keep if keep is not None else {node, *(edge.child for _, edge in forest.walk(node))}
            names = {repo for one in nodes for repo in forest.repos(one)}
            printed = [row for row in printed if row["child"] in names]
        print_rows(printed, chosen)


def _print_tree(forest: Forest, tops: list[str], keep: frozenset[str] | None, model: str | None) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from provenance.output import clean
    from provenance.query.lineage.forest import label

    console = Console()
    for top in tops:
        branches = [Tree(_name(forest, top, model))]
        for depth, edge in forest.walk(top, keep):
            del branches[depth:]
            text = _name(forest, edge.child, model) + Text(f"  {clean(label(edge))}", style="dim")
            branches.append(branches[-1].add(text))
        console.print(branches[0])
    if not tops:
        console.print("no derivations found")


def _name(forest: Forest, node: str, model: str | None) -> Text:
    from rich.text import Text

    from provenance.output import clean

    return Text(clean(forest.title(node)), style="bold" if node == model else "")
