"""`provenance demo`."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click

STORE = "demo-store"
SQL = "select child, parent, relation, declared, license_differs from lineage where verdict = 'derived'"


@click.command()
@click.option(
    "--store", type=click.Path(file_okay=False), default=STORE, show_default=True, help="Keep the store in this folder."
)
@click.pass_context
def demo(context: click.Context, store: str) -> None:
    """Run every step on a small family of checkpoints, and say what to try next.

    The package contains seven small, trained checkpoints: a root, its fine-tunes, a quantised and a pruned copy, a
    twin from the same initialisation, and a stranger. A small hub on loopback serves them; they are crawled by the
    real client, indexed and queried. Nothing outside this machine is reached.

    \b
    Examples:
      provenance demo
      provenance demo --store /tmp/demo-store
    """
    from importlib.resources import as_file, files

    from provenance.demo_hub import LoopbackHub, folder_repos

    with as_file(files("provenance").joinpath("miniature")) as family, LoopbackHub(folder_repos(family)) as hub:
        options = {"everything": True, "endpoint": hub.endpoint, "mode": "full"}
        _run(context, "crawl", f"crawl --all --mode full --endpoint {hub.endpoint}", store=store, **options)
    _run(context, "index", "index", store=store)
    for model in ("nimblewick/concord-base", "quillmarsh/sedge-200k-suite"):
        _run(context, "query", f"query {model}", model=model, store=store, output="table")
    _run(
        context,
        "lineage",
        "lineage halfstair/short-basalt-4l --refresh",
        model="halfstair/short-basalt-4l",
        store=store,
        output="tree",
        refresh=True,
    )
    _run(context, "sql", f'sql "{SQL}"', statement=SQL, store=store, output="table")
    _say_what_next(store)


def _run(context: click.Context, name: str, line: str, **parameters: Any) -> None:
    """Run one command as from the command line."""
    from provenance.output.sections import print_title

    commands = context.find_root().command
    assert isinstance(commands, click.Group)
    command = commands.get_command(context, name)
    assert command is not None
    print_title(f"$ provenance {line}")
    context.invoke(command, **parameters)


def _say_what_next(store: str) -> None:
    """Commands that work when they are typed as they stand here."""
    from provenance.output.sections import print_title

    provenance = executable()
    print_title("The store is kept. Next:")
    click.echo(f"  export PROVENANCE_STORE={shlex.quote(str(Path(store).absolute()))}")
    click.echo(f"  {provenance} query nimblewick/concord-base --explain")
    click.echo(f"  {provenance} compare halfstair/short-basalt-4l quillmarsh/sedge-200k")
    click.echo(f"  {provenance} sql --list")


def executable() -> str:
    """What to type to start this program: `provenance` where the shell finds this one, else its path."""
    own = Path(sys.argv[0]).absolute()
    found = shutil.which("provenance")
    if found and own.exists() and own.samefile(found):
        return "provenance"
    return str(own) if own.name == "provenance" else f"{sys.executable} -m provenance"
