"""Options that several commands share."""

from __future__ import annotations

import click

store_option = click.option(
    "--store",
    type=click.Path(file_okay=False),
    help="Folder of the store (default: $PROVENANCE_STORE, else ./provenance-store).",
)
format_option = click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json", "csv", "parquet"]),
    help="Default: table on a terminal, json elsewhere.",
)
json_option = click.option(
    "--format", "output", type=click.Choice(["table", "json"]), help="Default: table on a terminal, json elsewhere."
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
    help="Read the weights again and compare what no inner disguise changes; first prints how many bytes.",
)
created_option = click.option(
    "--created",
    type=click.DateTime(),
    help="When the model was created (UTC), where no listing says it: decides who was first of two copies.",
)
license_option = click.option(
    "--license", "license_", metavar="ID", help="License of the model, where no card says it."
)
