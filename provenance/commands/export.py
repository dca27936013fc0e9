"""`provenance export`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from provenance.commands.options import store_option

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("parquet", "csv", "ndjson")


@click.command()
@click.argument("table")
@click.argument("file", required=False, default="-", type=click.Path(dir_okay=False, allow_dash=True))
@store_option
@click.option("--format", "output", type=click.Choice(FORMATS), help="Default: by the suffix of FILE; csv on stdout.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def export(table: str, file: str, store: str | None, output: str | None, force: bool) -> None:
    """Copy TABLE, any view of the store, to FILE or to stdout.

    Tables are copied in bounded memory; `provenance sql` prints views in more formats. FILE is created when it is
    complete. In CSV, lists and objects are JSON and bytes are hexadecimal.

    \b
    Examples:
      provenance export latest_checkpoints checkpoints.parquet
      provenance export lineage lineage.csv --force
      provenance export outcomes --format csv | head
    """
    from provenance import open as open_database

    chosen = output or _by_suffix(file)
    if file != "-" and Path(file).exists() and not force:
        raise click.UsageError(f"{file} exists; use --force to replace it")
    with open_database(store) as database:
        pieces = database.stream(table)
        if file == "-":
            _to_stdout(pieces, chosen)
        else:
            _to_file(pieces, chosen, Path(file))


def _by_suffix(file: str) -> str:
    if file == "-":
        return "csv"
    suffix = Path(file).suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise click.UsageError(f"{file} ends with neither .parquet nor .csv nor .ndjson; say which with --format")
    return suffix


def _to_file(pieces: Iterator[pa.Table], output: str, file: Path) -> None:
    from provenance.indexer.store.files import sync, temporary_name

    temporary = file.with_name(temporary_name())
    try:
        with temporary.open("xb") as stream:
            _write(pieces, output, stream)
        sync(temporary)
        temporary.replace(file)
        sync(file.absolute().parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_stdout(pieces: Iterator[pa.Table], output: str) -> None:
    if output != "parquet":
        _write(pieces, output, sys.stdout.buffer)
        return
    if sys.stdout.isatty():
        raise click.UsageError("Parquet is binary: name a FILE, or redirect it")
    with tempfile.TemporaryFile() as staged:  # Parquet needs file positions, which a pipe does not have
        _write(pieces, output, staged)
        staged.seek(0)
        shutil.copyfileobj(staged, sys.stdout.buffer)


def _write(pieces: Iterator[pa.Table], output: str, stream: BinaryIO) -> None:
    import pyarrow.parquet as pq

    from provenance.output import to_csv, to_ndjson

    first = next(pieces)  # without rows
    if output == "parquet":
        with pq.ParquetWriter(stream, first.schema, compression="zstd") as writer:
            for piece in pieces:
                writer.write_table(piece)
        return
    if output == "csv":
        stream.write(to_csv(first))
    for piece in pieces:
        stream.write(to_csv(piece, header=False) if output == "csv" else to_ndjson(piece.to_pylist()).encode())
