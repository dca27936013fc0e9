"""Printing results for people and programs: one format per command, stdout for results, stderr for everything else."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from provenance.schemas.enums import Status

if TYPE_CHECKING:
    import pyarrow as pa

    from provenance.crawler.engine.summary import CrawlSummary
    from provenance.crawler.hub.transport import HubTransport
    from provenance.schemas.records import Outcome

LINE_SECONDS = 60.0
"""How often a crawl without a terminal prints a line of progress."""

FORMATS = ("table", "json", "csv", "parquet")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: object) -> str:
    """Untrusted text, without control and direction-changing characters."""
    return _CONTROL.sub("�", str(text))


def clean_lines(text: str) -> str:
    """Untrusted text of several lines, each without control and direction-changing characters."""
    return "\n".join(map(clean, text.split("\n")))


def choose_format(given: str | None) -> str:
    """The format asked for, else a table on a terminal and JSON elsewhere."""
    return given or ("table" if sys.stdout.isatty() else "json")


def print_rows(rows: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print rows as a table, JSON, CSV or Parquet."""
    if output == "json":
        print_json(rows)
    elif output == "csv":
        click.echo(to_csv(_as_arrow(rows)), nl=False)
    elif output == "parquet":
        write_parquet(_as_arrow(rows))
    else:
        print_table(rows)


def print_arrow(table: pa.Table, output: str) -> None:
    """Print an Arrow table as a table, JSON, CSV or Parquet; CSV and Parquet have the columns even without rows.

    Raises:
        SqlError: it holds a time that Python cannot represent.
    """
    from provenance.query.analytics import as_rows

    if output == "parquet":
        write_parquet(table)
    elif output == "csv":
        click.echo(to_csv(table), nl=False)
    else:
        print_rows(as_rows(table), output)


def print_json(value: object) -> None:
    """Print a value as JSON; numbers that JSON cannot represent (NaN, infinities) are null."""
    click.echo(to_json(value))


def to_json(value: object) -> str:
    """A value as JSON text, see `print_json`."""
    return json.dumps(_finite(value), indent=2, default=_plain, allow_nan=False)


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


def _cell(value: object) -> str | None:
    if isinstance(value, list | dict):
        return json.dumps(_finite(value), default=_plain)
    if isinstance(value, bytes):
        return value.hex()
    return None if value is None else str(value)


def _as_arrow(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([dict(row) for row in rows])


def write_parquet(table: pa.Table) -> None:
    """Write a Parquet file to stdout; refused on a terminal."""
    import pyarrow.parquet as pq

    if sys.stdout.isatty():
        raise click.UsageError("Parquet is binary: redirect it, as in `… --format parquet > rows.parquet`")
    stream = io.BytesIO()
    pq.write_table(table, stream)
    click.echo(stream.getvalue(), nl=False)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table for a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], int | float | Decimal | None) for row in rows)
        table.add_column(Text(clean(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(show(value)) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table if rows else Text("no rows"))


def show(value: object) -> str:
    """One value as text for a person."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if value and (abs(value) < 1e-3 or abs(value) >= 1e6) else f"{value:.3f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, list | tuple):
        return ", ".join(clean(item) for item in value)
    return clean(value)


def show_bytes(n: float) -> str:
    """A number of bytes with a unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def say_reading(n: int) -> None:
    """Say on stderr how many bytes of weights will be read."""
    if n == 0:
        click.echo("no weights are read: what --deep compares is stored", err=True)
        return
    click.echo(f"reading {show_bytes(n)} of weights ({n:,} bytes)", err=True)


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


class CrawlProgress:
    """Progress of a crawl on stderr: a bar on a terminal, one line per minute elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._done = self._bytes = self._failed = self._skipped = 0
        self._began = self._said = time.monotonic()
        self._budgets = ""
        self._bar = Progress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("crawling", total=None, facts="")

    def __enter__(self) -> CrawlProgress:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def found(self, total: int | None) -> None:
        self._bar.update(self._task, total=total)

    def visited(self, outcome: Outcome) -> None:
        self._done += 1
        self._bytes += outcome.bytes_read
        self._failed += outcome.status == Status.FAILED
        self._skipped += outcome.status == Status.SKIPPED
        self._show()

    def passed(self, listed: int) -> None:
        self._skipped += 1
        self._done += 1
        if listed % 1000 == 0:
            self._show()

    def budgets(self, transport: HubTransport) -> None:
        left = [f"{name} {o.left:,} of {o.quota or 0:,}" for name, o in sorted(transport.budgets.limits.items())]
        waiting = [f"waits {seconds:.0f} s for the hub"] if (seconds := transport.budgets.waiting()) else []
        self._budgets = "  ".join(left + waiting)
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        speed = self._done / max(now - self._began, 1e-9)
        facts = (
            f"{speed:.1f}/s  {show_bytes(self._bytes)}  {self._skipped} skipped  {self._failed} failed  {self._budgets}"
        )
        self._bar.update(self._task, completed=self._done, facts=facts)
        if self._bar.disable and now - self._said >= LINE_SECONDS:
            self._said = now
            click.echo(f"{self._done} visited  {facts}", err=True)


def report_crawl(summary: CrawlSummary) -> None:
    """Print to stderr what a crawl did, with one line for each failure."""
    for outcome in summary.failures[:20]:
        click.echo(f"failed: {clean(outcome.message)}", err=True)
    if len(summary.failures) > 20:
        click.echo(f"… and {len(summary.failures) - 20} more; see `provenance status`", err=True)
    click.echo(
        f"{summary.fingerprinted} fingerprinted, {summary.skipped} skipped, {summary.failed} failed "
        f"of {summary.listed} listed; {show_bytes(summary.bytes_read)} read in {summary.seconds:.1f} s",
        err=True,
    )
    if summary.stopped:
        click.echo(f"stopped early: {summary.stopped}; run the same command again to go on", err=True)
