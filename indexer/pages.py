"""Checksums of the files of an index, page by page: damage is found when it is read, before it is used.

A digest of a whole file would have to be computed over the whole file, and a query reads only a few pages of it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from provenance.schemas.errors import StoreCorruptError

CHECKSUMS = "checksums.npz"
"""CRC-32 of every page of every other file of a generation, by file name."""

_PAGE = 1 << 16


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files in a folder."""
    sums = {path.name: _sums(path) for path in sorted(folder.iterdir())}
    np.savez(folder / CHECKSUMS, allow_pickle=False, **sums)


def _sums(path: Path) -> NDArray[np.uint32]:
    with path.open("rb") as stream:
        return np.array([zlib.crc32(page) for page in iter(lambda: stream.read(_PAGE), b"")], dtype=np.uint32)


def read_checksums(folder: Path, written: Mapping[str, Mapping[str, Any]]) -> dict[str, NDArray[np.uint32]]:
    """The checksums of a folder, once every file has the size that its manifest says.

    Args:
        folder: of the generation.
        written: of its manifest: file -> `bytes` and `sha256`.

    Raises:
        StoreCorruptError: a file is missing or has another size, or the checksums themselves are damaged.
    """
    for name, entry in written.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise _damaged(path, "is missing") from None
        if size != entry["bytes"]:
            raise _damaged(path, f"has {size:,} bytes instead of {entry['bytes']:,}")
    content = (folder / CHECKSUMS).read_bytes()
    if hashlib.sha256(content).hexdigest() != written[CHECKSUMS]["sha256"]:
        raise _damaged(folder / CHECKSUMS, "is not what was written")
    with np.load(folder / CHECKSUMS) as stored:
        return {name: stored[name] for name in stored.files}


class CheckedFile:
    """A memory-mapped file whose pages are checked once, when they are first read."""

    def __init__(self, path: Path, sums: Mapping[str, NDArray[np.uint32]]) -> None:
        """Map a file.

        Raises:
            StoreCorruptError: it has no checksums, or is shorter than they are.
        """
        self.path = path
        self._sums = sums.get(path.name)
        size = path.stat().st_size
        if self._sums is None or len(self._sums) != -(-size // _PAGE):
            raise _damaged(path, "is not as long as its checksums")
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r") if size else np.zeros(0, np.uint8)
        self._good = np.zeros(len(self._sums), dtype=bool)

    def __len__(self) -> int:
        return len(self._bytes)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of a range.

        Raises:
            StoreCorruptError: they are not what was written, or the range is not in the file.
        """
        if not 0 <= start <= stop <= len(self._bytes):
            raise _damaged(self.path, f"does not hold bytes {start:,} to {stop:,}")
        for page in range(start // _PAGE, -(-stop // _PAGE)):
            if not self._good[page]:
                own = self._bytes[page * _PAGE : (page + 1) * _PAGE]
                if self._sums is None or zlib.crc32(own.tobytes()) != self._sums[page]:
                    raise _damaged(self.path, f"is not what was written, near byte {page * _PAGE:,}")
                self._good[page] = True
        return self._bytes[start:stop]


class CheckedArray:
    """A memory-mapped `.npy` file whose rows are checked before they are used."""

    def __init__(self, path: Path, sums: Mapping[str, NDArray[np.uint32]], dtype: DTypeLike) -> None:
        """Map a file with values of this type.

        Raises:
            StoreCorruptError: it is damaged where the type and shape are written, or holds something else.
        """
        self._file = CheckedFile(path, sums)
        self._file.read(0, min(_PAGE, len(self._file)))
        try:
            self._array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, TypeError, OverflowError, SyntaxError, TokenError) as error:
            raise _damaged(path, str(error)) from error
        if self._array.dtype != dtype:
            raise _damaged(path, f"holds {self._array.dtype}, not {np.dtype(dtype)}")
        self._start = len(self._file) - self._array.nbytes
        self._row = self._array.nbytes // len(self._array) if len(self._array) else 0

    def __len__(self) -> int:
        return len(self._array)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    def __getitem__(self, rows: int | slice) -> Any:
        """A row, or a slice of rows in increasing order.

        Raises:
            StoreCorruptError: they are not what was written.
            IndexError: there is no such row.
        """
        if isinstance(rows, int) and not 0 <= rows < len(self):
            raise IndexError(rows)
        first, stop, _ = rows.indices(len(self)) if isinstance(rows, slice) else (rows, rows + 1, 1)
        self._file.read(self._start + first * self._row, self._start + max(first, stop) * self._row)
        return np.asarray(self._array[rows])


def _damaged(path: Path, fault: str) -> StoreCorruptError:
    return StoreCorruptError(f"damaged index: {path.parent.name}/{path.name} {fault}; run `provenance index`")
