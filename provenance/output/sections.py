"""Sections of an answer on a terminal: headline, reasons and explanations, wrapped to its width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from provenance.output.terminal import console
from provenance.output.words import STYLES, Reason

LINE_WIDTH = 120
"""Sentences are no longer than this, however wide the terminal is."""


def print_headline(name: str, verdict: str, sentence: str) -> None:
    """The verdict as a word, which programs may look for, then in a sentence."""
    out = console()
    out.print(Text.assemble(f"{name}: ", (verdict, STYLES.get(verdict, ""))), soft_wrap=True)
    out.print(Text(sentence), width=min(out.width, LINE_WIDTH))


def print_reasons(reasons: Sequence[Reason], indent: int = 2) -> None:
    """One line for each reason, continued under its text."""
    if not reasons:
        return
    out = console()
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for reason in reasons:
        grid.add_row(reason.about, Text(reason.text))
    out.print(Padding(grid, (0, 0, 0, indent)), width=min(out.width, LINE_WIDTH))


def print_title(text: str) -> None:
    """The title of a section, after an empty line."""
    console().print(Text.assemble("\n", (text, "bold")), soft_wrap=True)


def print_legend(legend: Mapping[str, str]) -> None:
    """The meanings of words."""
    print_title("words")
    print_reasons([Reason(word, meaning) for word, meaning in legend.items()])
