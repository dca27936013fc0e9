"""`provenance forget`."""

from __future__ import annotations

import re
import sys

import click

from provenance.commands.options import complete_repos, store_option

_REPO = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


@click.command()
@click.argument("repos", nargs=-1, required=True, metavar="REPO...", shell_complete=complete_repos)
@store_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def forget(repos: tuple[str, ...], store: str | None, yes: bool) -> None:
    """Take repos out of the store, with everything that is known about them.

    REPO is owner/name: all its revisions are forgotten. From then on no command shows it and crawls of a listing skip
    it; only a crawl of it by name brings it back. `provenance index` removes it from the index and `provenance compact`
    from the files, the old ones of which are deleted an hour later. `provenance lineage --refresh` examines its
    children again. References to it stay: the cards that declare it as parent, and the sources and arguments of past
    crawls in `runs`.

    \b
    Examples:
      provenance forget org/name
      provenance forget org/name org/other --yes && provenance index && provenance compact
    """
    from provenance import open as open_database
    from provenance.names import hub_name
    from provenance.output import clean, say

    repos = tuple(map(hub_name, repos))
    for repo in repos:
        if not _REPO.fullmatch(repo):
            raise click.UsageError(f"{clean(repo)} is not a repo id; a repo is forgotten whole, as owner/name")
    with open_database(store) as database:
        for mentioned in database.mentions(repos):
            click.echo(f"{clean(mentioned.repo_id)}: {mentioned.checkpoints} checkpoints", err=True)
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("no terminal to confirm it; use --yes")
            if not click.confirm("Forget them?", err=True):
                raise SystemExit(1)
        forgotten = database.forget(repos)
    say(f"{len(forgotten)} repos forgotten; `provenance index` and `provenance compact` drop what is left")
