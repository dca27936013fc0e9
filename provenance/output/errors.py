"""Errors on stderr: one line that says what, why and what next, and the place in a statement where there is one."""

from __future__ import annotations

import click

from provenance.output.text import clean


def print_error(error: Exception, name: str = "provenance") -> None:
    """Print an error in one line, with the lines of its `place` below it."""
    click.echo(f"{name}: {clean(error)}" if name else clean(error), err=True)
    for line in getattr(error, "place", ()):
        click.echo(f"  {clean(line)}", err=True)
