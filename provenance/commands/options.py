"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from provenance.output import FORMATS

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

store_option = click.option(
    "--store",
    type=click.Path(file_okay=False),
    help="Folder of the store (default: $PROVENANCE_STORE, else ./provenance-store).",
)
format_option = click.option(
    "--format",
    "output",
    type=click.Choice(FORMATS),
    help="Default: table on a terminal, json elsewhere.",
)
wide_option = click.option("--wide", is_flag=True, help="Show all of every column, also beyond the terminal's width.")
fetch_option = click.option(
    "--fetch",
    is_flag=True,
    help="Read a model that is not stored from the hub; without it only the store is looked into.",
)
mode_option = click.option(
    "--mode",
    type=click.Choice(["sampled", "full"]),
    help="Read planned bands of the weights, or every weight (default: full for local folders, sampled for a hub).",
)
sample_option = click.option(
    "--sample",
    type=click.Choice(["small", "default", "large"]),
    default="default",
    show_default=True,
    help="How much a sampled fingerprint reads.",
)
deep_option = click.option(
    "--deep",
    is_flag=True,
    help="Compare what no inner disguise changes where it is not stored: reads weights; first prints how many bytes.",
)
created_option = click.option(
    "--created",
    type=click.DateTime(),
    help="When the model was created (UTC), where no listing says it: decides who was first of two copies.",
)
license_option = click.option(
    "--license", "license_", metavar="ID", help="License of the model, where no card says it."
)
explain_option = click.option("--explain", is_flag=True, help="Explain every line of evidence in a sentence.")


def model_argument(name: str, *, required: bool = True) -> Callable[[Decorated], Decorated]:
    """The argument that names a model; shells complete it with the ids of the store."""
    return click.argument(name, required=required, shell_complete=complete_repos)


def complete_repos(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of stored repos that begin with what was typed; folders are completed by the shell itself."""
    import duckdb

    from provenance import open as open_database
    from provenance.schemas.errors import ProvenanceError

    statement = "select distinct repo_id from checkpoints where starts_with(repo_id, $typed) order by 1 limit 100"
    try:
        with open_database(context.params.get("store")).connect() as connection:
            return [row[0] for row in connection.execute(statement, {"typed": incomplete}).fetchall()]
    except (ProvenanceError, duckdb.Error, OSError):
        return []  # a shell that completes shows no errors
