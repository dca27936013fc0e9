"""`provenance demo`."""

from __future__ import annotations

from typing import Any

import click

SQL = "select child, parent, relation, declared, undeclared, license_differs from lineage where verdict = 'derived'"


@click.command()
@click.option("--store", type=click.Path(file_okay=False), help="Keep the store here (default: a temporary store).")
@click.pass_context
def demo(context: click.Context, store: str | None) -> None:
    """Run every step on a small family of checkpoints.

    The package contains seven small, trained checkpoints: a root, its fine-tunes, a quantised and a pruned copy, a
    twin from the same initialisation, and a stranger. A small hub on loopback serves them; they are crawled by the
    real client, indexed and queried. Nothing outside this machine is reached.

    \b
    Examples:
      provenance demo
      provenance demo --store ./demo-store
    """
    import tempfile
    from contextlib import nullcontext
    from importlib.resources import as_file, files

    from provenance.demo_hub import LoopbackHub, folder_repos

    place = nullcontext(store) if store else tempfile.TemporaryDirectory(prefix="provenance-demo-")
    with place as folder, as_file(files("provenance").joinpath("miniature")) as family:
        with LoopbackHub(folder_repos(family)) as hub:
            options = {"everything": True, "endpoint": hub.endpoint, "mode": "full"}
            _run(context, "crawl", f"crawl --all --mode full --endpoint {hub.endpoint}", store=folder, **options)
        _run(context, "index", "index", store=folder)
        for model in ("nimblewick/concord-base", "quillmarsh/sedge-200k-suite"):
            _run(context, "query", f"query {model}", model=model, store=folder, output="table")
        _run(
            context,
            "lineage",
            "lineage halfstair/short-basalt-4l --refresh",
            model="halfstair/short-basalt-4l",
            store=folder,
            output="tree",
            refresh=True,
        )
        _run(context, "sql", f'sql "{SQL}"', statement=SQL, store=folder, output="table")


def _run(context: click.Context, name: str, line: str, **parameters: Any) -> None:
    """Run one command as from the command line."""
    commands = context.find_root().command
    assert isinstance(commands, click.Group)
    command = commands.get_command(context, name)
    assert command is not None
    click.secho(f"\n$ provenance {line}", bold=True)
    context.invoke(command, **parameters)
