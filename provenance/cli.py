"""`provenance`: parse, make one typed call, render. The commands are in `provenance.commands`."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from keyword import iskeyword

import click

from provenance.output import clean
from provenance.schemas.errors import ProvenanceError

COMMANDS = {
    "crawl": "Fingerprint checkpoints and put them into the store.",
    "index": "Build the search index over the store.",
    "query": "Name the suspected parents of a model.",
    "lineage": "Show the graph of parents and children.",
    "compare": "Show every line of evidence for one pair.",
    "show": "Show what is known about a model.",
    "sql": "Query the store in SQL.",
    "status": "Show what the store holds and what failed.",
    "verify": "Check the store's integrity.",
    "doctor": "Check that a hub behaves as the crawler assumes.",
    "compact": "Merge small parts of the store, and remove what was forgotten.",
    "export": "Copy a table to Parquet or CSV.",
    "import": "Copy the checkpoints of another store into this one.",
    "forget": "Take a repo out of the store.",
    "evaluate": "Measure against a table of true lineage.",
    "demo": "Run every step on a small family of checkpoints.",
}
"""Command -> its short help. Kept here so that `--help` imports no command."""


class Commands(click.Group):
    """Loads a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command = getattr(import_module(f"provenance.commands.{name}"), name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="model-provenance", prog_name="provenance")
def provenance() -> None:
    """Where did these weights come from?

    Fingerprints model checkpoints, keeps them in an open database, and names suspected parents with evidence.

    \b
    Examples:
      provenance demo
      provenance crawl ./models && provenance index
      provenance query org/name
      provenance sql "select repo_id, n_layers from latest_checkpoints"
    """


def main() -> None:
    """Entry point: errors raised on purpose become one line and exit status 1."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are for their developers; `python -W` shows them
    try:
        provenance()
    except (ProvenanceError, OSError) as error:
        # OSError: a full disk, or a folder that cannot be written; a traceback would not help.
        click.echo(f"provenance: {clean(error)}", err=True)
        sys.exit(1)
