"""Range reads of the files of one local repo, confined to the folder that was given."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from provenance.crawler.local.confinement import confined
from provenance.schemas.enums import Stage
from provenance.schemas.errors import WeightsError

_OPEN_FILES = 16
_CHUNK = 1 << 30  # a read(2) of Linux ends at 2 GiB


class LocalReader:
    """A `schemas.protocols.TensorReader` over the files of one folder.

    Files are opened at their first use and at most 16 are kept open; a pickled reader carries no open files.
    A reader must be used by one thread only.

    Attributes:
        bytes_read: bytes read.
        requests: ranges read.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        """Read the files of `folder`, following links as `confined` does inside `root`."""
        self.folder, self.root = Path(os.path.abspath(folder)), root  # noqa: PTH100 - resolve() would follow links
        self.bytes_read = 0
        self.requests = 0
        self._open: OrderedDict[str, int] = OrderedDict()

    def size(self, path: str) -> int:
        """Size of a file in bytes.

        Raises:
            WeightsError: there is no such file, it cannot be read, or it is outside of `root`.
        """
        return os.fstat(self._descriptor(path)).st_size

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the bytes of each half-open `(start, stop)` range, in the given order.

        Raises:
            WeightsError: as `size`, or a range ends after the end of the file.
        """
        for start, stop in ranges:
            if not 0 <= start <= stop:
                raise WeightsError(f"{path}: ({start}, {stop}) is not a range of bytes", stage=Stage.READ)
            descriptor = self._descriptor(path)
            size = os.fstat(descriptor).st_size
            if stop > size:  # checked before pread allocates the size that a wrong header gives
                raise WeightsError(f"{path} has {size} bytes, {stop} are needed; it is incomplete", stage=Stage.READ)
            data = self._pread(descriptor, path, start, stop)
            self.bytes_read += len(data)
            self.requests += 1
            yield data

    def head(self, path: str, limit: int) -> bytes:
        """The first `limit` bytes of a file, or all of a shorter one.

        Raises:
            WeightsError: as `size`.
        """
        (content,) = self.read(path, [(0, min(self.size(path), limit))])
        return content

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def _pread(self, descriptor: int, path: str, start: int, stop: int) -> bytes:
        chunks: list[bytes] = []
        while start < stop or not chunks:
            try:
                chunk = os.pread(descriptor, min(stop - start, _CHUNK), start)
            except OSError as error:
                raise WeightsError(f"{path} cannot be read: {error.strerror}", stage=Stage.READ) from error
            if not chunk and start < stop:
                raise WeightsError(
                    f"{path} ends at {start}, {stop} bytes are needed; it was cut short", stage=Stage.READ
                )
            chunks.append(chunk)
            start += len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _descriptor(self, path: str) -> int:
        """The descriptor of the open file; closes the least recently used file if too many are open."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or path.startswith("/") or "\\" in path or "\0" in path:
            raise WeightsError(f"{path!r} is not the path of a file inside the repo; refused", stage=Stage.READ)
        real = confined(self.folder / path, self.root)
        try:
            # Without O_NONBLOCK, a named pipe in the place of a file would block the crawl for ever.
            descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            raise WeightsError(f"{path} cannot be opened: {error.strerror}", stage=Stage.READ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise WeightsError(f"{path} is not a regular file", stage=Stage.READ)
        while len(self._open) >= _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = descriptor
        return descriptor
