"""Messages on stderr, and how much of them is wanted: `--quiet` and `--verbose`."""

from __future__ import annotations

import logging
import re
import sys

import click

from provenance.output.text import clean

_LEVEL = "provenance.verbosity"

_SECRET = re.compile(r"""(https?://)[^\s/@"']+@|(?<=\?)[^\s"']+""")
"""User and password of an address, and its query, which may be a signature."""


class SafeFormatter(logging.Formatter):
    """Lines of a log without what addresses may hold in secret, and without control characters of strangers."""

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).splitlines()
        return "\n".join(clean(_SECRET.sub(lambda found: f"{found[1] or ''}…", line)) for line in lines)


def set_verbosity(context: click.Context, level: int) -> None:
    """Set how much a run says: -1 errors only, 0 reports, 1 also its log, 2 also that of libraries."""
    context.find_root().meta[_LEVEL] = level
    if level > 0:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(SafeFormatter("%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
        logging.basicConfig(handlers=[handler])
    logging.getLogger("provenance").setLevel(
        logging.ERROR if level < 0 else logging.WARNING if level == 0 else logging.DEBUG
    )
    if level > 1:
        logging.getLogger().setLevel(logging.INFO)


def quiet() -> bool:
    """Whether only errors are wanted."""
    context = click.get_current_context(silent=True)
    return context is not None and context.find_root().meta.get(_LEVEL, 0) < 0


def say(text: str) -> None:
    """A report on stderr."""
    if not quiet():
        click.echo(text, err=True)


def note(text: str) -> None:
    """A remark about what stdout shows, dim on a terminal."""
    if quiet():
        return
    if sys.stderr.isatty():
        from provenance.output.terminal import console

        console(stderr=True).print(text, style="dim", markup=False, highlight=False)
    else:
        click.echo(text, err=True)
