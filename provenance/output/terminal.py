"""The terminal: its width, and whether it gets colours (`NO_COLOR` and `FORCE_COLOR` are heeded)."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console

MIN_WIDTH = 40
"""Narrower than this, tables are laid out for this width."""

UNLIMITED = 10_000
"""Width of lines in a file or a pipe."""


def terminal_width() -> int | None:
    """The width of the terminal that shows stdout; null if it goes elsewhere, where lines may be of any length."""
    if not sys.stdout.isatty():
        return None
    return max(MIN_WIDTH, shutil.get_terminal_size().columns)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console for text that was cleaned: nothing in it is taken for markup.

    Args:
        stderr: write there, and not to stdout.
        width: of its lines; by default that of the terminal, and elsewhere without a limit.
    """
    if width is None:
        terminal = (sys.stderr if stderr else sys.stdout).isatty()
        width = max(MIN_WIDTH, shutil.get_terminal_size().columns) if terminal else UNLIMITED
    # Without a height, rich takes a dumb terminal for 80 columns wide.
    return Console(stderr=stderr, width=width, height=25, markup=False, highlight=False, emoji=False)
