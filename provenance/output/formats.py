"""Rows on stdout: as a table for people, as JSON, NDJSON, CSV, Parquet or Markdown for programs and documents."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from provenance.output.messages import note
from provenance.output.tables import columns_of, print_table

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "json", "ndjson", "csv", "parquet", "markdown")

__all__ = [
    "FORMATS",
    "choose_format",
    "print_arrow",
    "print_json",
    "print_rows",
    "print_table",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_ndjson",
]


def choose_format(given: str | None) -> str:
    """The format asked for, else a table on a terminal and JSON elsewhere."""
    return given or ("table" if sys.stdout.isatty() else "json")


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    output: str,
    *,
    wide: bool = False,
    wraps: Sequence[str] = (),
    first_to_go: Sequence[str] = (),
    styles: Mapping[str, str] | None = None,
) -> None:
    """Print rows in one of `FORMATS`; how a table is laid out is said as in `print_table`."""
    if output == "json":
        print_json(rows)
    elif output == "ndjson":
        click.echo(to_ndjson(rows), nl=False)
    elif output == "markdown":
        click.echo(to_markdown(rows), nl=False)
    elif output in ("csv", "parquet"):
        print_arrow(_as_arrow(rows), output)
    else:
        left_out = print_table(rows, wide=wide, wraps=wraps, first_to_go=first_to_go, styles=styles)
        if left_out:
            some = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
            note(f"not shown for want of width: {some}; --wide shows every column")


def print_arrow(table: pa.Table, output: str, *, wide: bool = False) -> None:
    """Print an Arrow table in one of `FORMATS`; CSV, Parquet and Markdown have the columns even without rows.

    Raises:
        SqlError: it holds a time that Python cannot represent.
    """
    from provenance.query.analytics import as_rows

    if output == "parquet":
        write_parquet(table)
    elif output == "csv":
        click.echo(to_csv(table), nl=False)
    elif output == "markdown":
        click.echo(to_markdown(as_rows(table), table.column_names), nl=False)
    else:
        print_rows(as_rows(table), output, wide=wide)


def print_json(value: object) -> None:
    """Print a value as JSON; numbers that JSON cannot represent (NaN, infinities) are null."""
    click.echo(to_json(value))


def to_json(value: object) -> str:
    """A value as JSON text, see `print_json`."""
    return json.dumps(_finite(value), indent=2, default=_plain, allow_nan=False)


def to_ndjson(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line of JSON for each row."""
    return "".join(json.dumps(_finite(row), default=_plain, allow_nan=False) + "\n" for row in rows)


def to_markdown(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> str:
    """Rows as a Markdown table, numbers to the right; without rows only the header, which then needs `names`."""
    columns = columns_of(rows)
    heads = [column.name for column in columns] if rows else list(names or ())
    if not heads:
        return ""
    rules = ["---:" if column.numeric else "---" for column in columns] or ["---"] * len(heads)
    lines = [heads, rules, *zip(*(column.cells for column in columns), strict=True)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def to_csv(table: pa.Table, *, header: bool = True) -> bytes:
    """An Arrow table as CSV in UTF-8: null is empty, the empty text `""`, lists and objects JSON, bytes hexadecimal.

    Raises:
        SqlError: it holds a time that Python cannot represent.
    """
    import polars as pl
    import pyarrow as pa

    from provenance.query.analytics import as_rows

    kinds = pa.types
    plain = (kinds.is_integer, kinds.is_float32, kinds.is_float64, kinds.is_string, kinds.is_large_string)
    composed = [field.name for field in table.schema if not any(is_kind(field.type) for is_kind in plain)]
    rows = as_rows(table.select(composed)) if composed else []
    columns = [
        pl.Series(name, [_cell(row[name]) for row in rows], dtype=pl.String)
        if name in composed
        else pl.Series(name, table[name])
        for name in table.column_names
    ]
    return pl.DataFrame(columns).write_csv(include_header=header).encode()


def write_parquet(table: pa.Table) -> None:
    """Write a Parquet file to stdout; refused on a terminal."""
    import pyarrow.parquet as pq

    if sys.stdout.isatty():
        raise click.UsageError("Parquet is binary: redirect it, as in `… --format parquet > rows.parquet`")
    stream = io.BytesIO()
    pq.write_table(table, stream)
    click.echo(stream.getvalue(), nl=False)


def _cell(value: object) -> str | None:
    if isinstance(value, list | dict):
        return json.dumps(_finite(value), default=_plain)
    if isinstance(value, bytes):
        return value.hex()
    return None if value is None else str(value)


def _as_arrow(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([dict(row) for row in rows])


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _plain(value: object) -> object:
    if isinstance(value, Decimal):  # the type of sums of integers in DuckDB
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
