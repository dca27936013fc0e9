"""A DuckDB connection that can read the given files and do nothing else outside its own memory.

DuckDB's `allowed_paths` permits writing as well as reading (`COPY … TO` an allowed path, even inside a SELECT), so the
files are passed through a file system that can only open them for reading.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
import weakref
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

SCHEME = "part"


def address(path: str) -> str:
    """The address of the file `path` (relative to the root) in the sandbox's SQL."""
    return f"{SCHEME}://{path}"


class _File:
    """A file open for reading, with one position per thread.

    DuckDB reads one file from several threads, each time by `seek` and then `read`: with a shared position, a thread
    could get the bytes that another one requested.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        # DuckDB may drop a file without closing it.
        self.close = weakref.finalize(self, os.close, self._descriptor)
        # Keyed by the system's thread id: Python's thread-local storage may not survive one call from DuckDB.
        self._positions: dict[int, int] = {}

    def seek(self, position: int) -> int:
        self._positions[threading.get_ident()] = position
        return position

    def read(self, size: int) -> bytes:
        position = self._positions.get(threading.get_ident(), 0)
        data = os.pread(self._descriptor, size, position)
        self.seek(position + len(data))
        return data


class _ReadOnlyFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no type information
    """The files `paths` under `root`, read-only; no other file exists in it."""

    protocol = SCHEME
    cachable = False

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        super().__init__()
        self._files = {path: root / path for path in paths}

    def _file(self, path: str) -> Path:
        name = self._strip_protocol(path)
        if name not in self._files:
            raise FileNotFoundError(f"{path} is not a part of this store")
        return self._files[name]

    def _open(self, path: str, mode: str = "rb", **_: object) -> _File:
        if mode != "rb":
            raise PermissionError(f"{path} is read-only")
        return _File(self._file(path))

    def info(self, path: str, **_: object) -> dict[str, Any]:
        return {"name": path, "size": self._file(path).stat().st_size, "type": "file"}

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self._file(path).stat().st_mtime, tz=UTC)

    def glob(self, path: str, **_: object) -> list[str]:
        return [path] if self._strip_protocol(path) in self._files else []


def connect(root: Path, paths: Iterable[str]) -> duckdb.DuckDBPyConnection:
    """An in-memory database whose SQL reads the files `paths` under `root` by their `address`.

    DuckDB refuses other files, the network, extensions, `ATTACH` of files, writing and changes of settings. Tables that
    SQL creates are in the connection's memory. Times are shown in UTC.
    """
    names = list(paths)
    # Large sorts spill here instead of the working directory; DuckDB removes the folder with the connection.
    spill = Path(tempfile.gettempdir()) / f"provenance-sql-{secrets.token_hex(8)}"
    connection = duckdb.connect(":memory:", config={"temp_directory": str(spill)})
    connection.register_filesystem(_ReadOnlyFiles(root, names))
    connection.execute(f"SET allowed_paths = {[address(name) for name in names]}")
    for setting in (
        "TimeZone = 'UTC'",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "python_enable_replacements = false",
        "enable_progress_bar = false",  # it would be written to stdout, into the results
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection
