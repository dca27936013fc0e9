"""`provenance`: parse, make one typed call, render. The commands are in `provenance.commands`."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from importlib import import_module
from keyword import iskeyword

import click

from provenance.output.errors import print_error
from provenance.output.messages import set_verbosity
from provenance.schemas.errors import ProvenanceError
from provenance.schemas.suggestions import did_you_mean

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
    "export": "Copy a table to Parquet, CSV or NDJSON.",
    "import": "Copy the checkpoints of another store into this one.",
    "forget": "Take a repo out of the store.",
    "evaluate": "Measure against a table of true lineage.",
    "demo": "Run every step on a small family of checkpoints.",
    "env": "Show versions and settings, for reports of bugs.",
}
"""Command -> its short help. Kept here so that `--help` imports no command."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""


def _heed(context: click.Context, option: click.Parameter, given: int) -> None:
    """Set how much is said, where a command itself got -q or -v."""
    if given:
        set_verbosity(context, -1 if option.name == "quiet" else given)


ANYWHERE = (
    click.Option(["-q", "--quiet"], is_flag=True, hidden=True, expose_value=False, callback=_heed),
    click.Option(["-v", "--verbose"], count=True, hidden=True, expose_value=False, callback=_heed),
)
"""Options of `provenance` that also every command takes; the help is with `provenance`."""


class Commands(click.Group):
    """Loads a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command = getattr(import_module(f"provenance.commands.{name}"), name)
        if not isinstance(command, click.Command):
            return None
        command.params += [option for option in ANYWHERE if option not in command.params]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            hint = did_you_mean(args[0], COMMANDS) or "; `provenance --help` lists all commands"
            ctx.fail(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; -vv also what libraries log.")
@click.version_option(None, "-V", "--version", package_name="model-provenance", prog_name="provenance")
@click.pass_context
def provenance(context: click.Context, quiet: bool, verbose: int) -> None:
    """Where did these weights come from?

    Fingerprints model checkpoints, keeps them in an open database, and names suspected parents with evidence.
    Results go to stdout, reports and progress to stderr. Exit status: 0 done, 1 failed, 2 wrong usage, 3 a condition of
    --fail-on was met, 130 interrupted.

    \b
    Examples:
      provenance demo
      provenance crawl ./models && provenance index
      provenance query org/name
      provenance -q crawl ./models
      provenance sql "select repo_id, n_layers from latest_checkpoints"
    """
    set_verbosity(context, -1 if quiet else verbose)


def main() -> None:
    """Entry point: errors raised on purpose become one line and an exit status."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are for their developers; `python -W` shows them
    sys.exit(_run())


def _run() -> int:
    """Run the command line; returns its exit status."""
    try:
        status = provenance.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except (ProvenanceError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            # Whoever read stdout has left. What is still buffered goes nowhere, so that Python does not report it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        # OSError: a full disk, or a folder that cannot be written; a traceback would not help.
        print_error(error)
        return 1
    return status if isinstance(status, int) else 0
