"""Parts: the immutable Parquet files of a store, written under a temporary name and published by a rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from provenance.indexer.store.files import sync, temporary_name, try_lock
from provenance.indexer.store.manifest import Part, part_path
from provenance.schemas.errors import StoreCorruptError, StoreError
from provenance.schemas.tables import LATER_TABLES, schema

# A row of `samples` has about 40 KB, so these numbers of rows and bytes limit the memory of a merge for every table.
_BATCH_ROWS = 1024
_GROUP_BYTES = 32 << 20

_NEXT = "run `provenance verify`, and restore the part from a backup or crawl into a new store"


class PartWriter:
    """Writes one part of `table`; leaving the context without `publish` discards it.

    The temporary file stays locked until then, so that compaction does not remove it.
    """

    def __init__(self, store: Path, table: str) -> None:
        self.table = table
        self._store = store
        self._rows = 0
        if table in LATER_TABLES:
            (store / table).mkdir(exist_ok=True)
        self._temporary = store / table / temporary_name()
        self._file = self._temporary.open("xb")
        try_lock(self._file.fileno())  # always free: no other process knows this name yet
        self._writer = pq.ParquetWriter(self._file, schema(table), compression="zstd", write_page_checksum=True)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.unlink(missing_ok=True)
        # On a full disk, closing a discarded part fails too; that error has been raised already.
        for unfinished in (self._writer, self._file):
            with suppress(OSError):
                unfinished.close()

    def write(self, rows: pa.Table) -> None:
        """Append rows as one or more row groups."""
        self._writer.write_table(rows)
        self._rows += rows.num_rows

    def finish(self) -> None:
        """Write the footer and make the bytes durable: the slow step, done before the store's lock is taken."""
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())

    def publish(self, sequence: int) -> Part:
        """Give the finished part its name. It is not live until it is in a manifest."""
        path = part_path(self.table, sequence, secrets.token_hex(8))
        self._temporary.rename(self._store / path)
        sync(self._temporary.parent)
        return Part(path, self._rows, os.fstat(self._file.fileno()).st_size)


def conform(table: str, rows: pa.Table) -> pa.Table:
    """`rows` with exactly the columns of the table's schema, in its order and types.

    Raises:
        StoreError: a column is missing or unknown, or its values do not fit the type.
    """
    wanted = schema(table)
    missing = [name for name in wanted.names if name not in rows.column_names]
    unknown = [name for name in rows.column_names if name not in wanted.names]
    if missing or unknown or rows.num_columns != len(wanted):
        raise StoreError(
            f"these rows do not fit the table {table}: missing columns {missing}, unknown columns {unknown}; "
            "build them with provenance.schemas.tables.from_rows"
        )
    try:
        fitted = rows.select(wanted.names).cast(wanted)
        fitted.validate()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise StoreError(f"these rows do not fit the table {table}: {error}") from error
    return fitted


def read_part(store: Path, table: str, part: Part, columns: Sequence[str], group: int | None = None) -> pa.Table:
    """The given columns of one part, or of one of its row groups, in the given order.

    Raises:
        FileNotFoundError: the part is gone.
        StoreCorruptError: it cannot be read, or has another schema.
    """
    try:
        with _open(store, table, part) as file:
            names = list(columns)
            rows = file.read(columns=names) if group is None else file.read_row_group(group, columns=names)
            return rows.select(names)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreCorruptError(f"{part.path} cannot be read ({error}); {_NEXT}") from error


def count_groups(store: Path, table: str, part: Part) -> int:
    """Number of row groups of one part; raises as `read_part`."""
    try:
        with _open(store, table, part) as file:
            return int(file.num_row_groups)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreCorruptError(f"{part.path} cannot be read ({error}); {_NEXT}") from error


def stream_part(store: Path, table: str, part: Part) -> Iterator[pa.Table]:
    """All rows of one part in order, in pieces of tens of megabytes, with page checksums verified.

    Raises:
        FileNotFoundError: the part is gone.
        StoreCorruptError: it cannot be read, or has another schema.
    """
    held: list[pa.RecordBatch] = []
    size = 0
    try:
        with _open(store, table, part) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                held.append(batch)
                size += batch.nbytes
                if size >= _GROUP_BYTES:
                    yield pa.Table.from_batches(held)
                    held, size = [], 0
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreCorruptError(f"{part.path} cannot be read ({error}); {_NEXT}") from error
    if held:
        yield pa.Table.from_batches(held)


def _open(store: Path, table: str, part: Part) -> pq.ParquetFile:
    file = pq.ParquetFile(store / part.path, page_checksum_verification=True)
    if not file.schema_arrow.equals(schema(table)):
        file.close()
        raise StoreCorruptError(f"{part.path} does not have the columns of the table {table}; {_NEXT}")
    return file
