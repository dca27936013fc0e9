"""Tables that fit: columns are shortened, then left out, until their rows fit the width of the terminal."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from provenance.output.text import shorten, show

GAP = 2
"""Spaces between two columns."""

MIN_TEXT, MIN_ID = 20, 24
"""Cells that a column of text, and one of ids, keeps at least when it is shortened."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that is to be laid out.

    Attributes:
        name: its key.
        cells: its values as text.
        numeric: aligned to the right, and never shortened.
        wraps: continued on further lines, at spaces, instead of shortened.
    """

    name: str
    cells: tuple[str, ...]
    numeric: bool = False
    wraps: bool = False

    @property
    def natural(self) -> int:
        """Width at which nothing is shortened."""
        return max(_width(self.name), self.content)

    @property
    def content(self) -> int:
        """Width of the widest value."""
        return max(map(_width, self.cells), default=0)

    @property
    def least(self) -> int:
        """Width below which it is better left out: all of a number; of a text as much as can be recognised."""
        of_ids = any("/" in cell and " " not in cell for cell in self.cells)
        content = self.content if self.numeric else min(self.content, MIN_ID if of_ids else MIN_TEXT)
        return max(content, min(max(map(_width, _words(self.name))), MIN_TEXT))


def columns_of(rows: Sequence[Mapping[str, Any]], wraps: Collection[str] = ()) -> list[Column]:
    """The columns of some rows, all with the keys of the first one."""
    columns = []
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        numeric = all(isinstance(value, int | float | Decimal | None) for value in values)
        columns.append(Column(show(name), tuple(map(show, values)), numeric, name in wraps))
    return columns


def fit(columns: Sequence[Column], width: int | None, first_to_go: Sequence[str] = ()) -> list[tuple[Column, int]]:
    """The columns that are shown and the width of each.

    Args:
        columns: all columns.
        width: of the terminal; null for any.
        first_to_go: columns that are left out before others, in this order; then they go from the right. The first
            column always stays.
    """
    if width is None:
        return [(column, column.natural) for column in columns]
    kept = list(columns)
    while len(kept) > 1 and sum(column.least for column in kept) + GAP * (len(kept) - 1) > width:
        places = {column.name: place for place, column in enumerate(kept) if place}
        del kept[next((places[name] for name in first_to_go if name in places), -1)]
    room = width - GAP * (len(kept) - 1) - sum(column.least for column in kept)
    widths = [column.least for column in kept]
    # What is left goes to the columns that lack least: most are then complete, and the longest are shortened.
    lacking = sorted(range(len(kept)), key=lambda i: kept[i].natural - widths[i])
    for done, i in enumerate(lacking):
        more = min(kept[i].natural - widths[i], max(0, room) // (len(kept) - done))
        widths[i] += more
        room -= more
    return list(zip(kept, [min(one, width) for one in widths], strict=True))


def print_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    wide: bool = False,
    wraps: Collection[str] = (),
    first_to_go: Sequence[str] = (),
    styles: Mapping[str, str] | None = None,
) -> list[str]:
    """Print rows as a table on stdout, as wide as the terminal or, elsewhere, as needed.

    Args:
        rows: all with the keys of the first one.
        wide: print all of every column, whatever the terminal's width.
        wraps: columns of sentences, which are continued on further lines.
        first_to_go: see `fit`.
        styles: style of a cell with a certain text, such as a verdict.

    Returns:
        the names of the columns that were left out.
    """
    from rich.table import Table
    from rich.text import Text

    from provenance.output.terminal import console, terminal_width

    if not rows:
        console().print("no rows")
        return []
    columns = columns_of(rows, wraps)
    fitted = fit(columns, None if wide else terminal_width(), first_to_go)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for column, width in fitted:
        table.add_column(
            Text(_header(column.name, width)),
            justify="right" if column.numeric else "left",
            width=width,
            no_wrap=not column.wraps,
            vertical="top",
        )
    for n in range(len(rows)):
        cells = [c.cells[n] if c.wraps else shorten(c.cells[n], width) for c, width in fitted]
        table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in cells))
    total = sum(width for _, width in fitted) + GAP * len(fitted)
    console(width=total).print(table)
    shown = {column.name for column, _ in fitted}
    return [column.name for column in columns if column.name not in shown]


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _words(name: str) -> list[str]:
    """The parts of a column's name that may stand on lines of their own."""
    return re.findall(r"[^_ ]+_?", name) or [name]


def _header(name: str, width: int) -> str:
    """A column's name, on several lines if it is wider than the column."""
    lines = [""]
    spaced = re.findall(r"[^_ ]+_? ?", name) or [name]
    for word in spaced:
        if lines[-1] and _width(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(shorten(line.rstrip(), width) for line in lines)
