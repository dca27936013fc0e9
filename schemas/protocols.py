"""What the rooms hand to each other, as protocols: a reader of bytes and an index of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TensorReader(Protocol):
    """Ranged reads of the files of one repo at one revision."""

    @property
    def bytes_read(self) -> int:
        """Bytes read so far."""
        ...

    @property
    def requests(self) -> int:
        """Reads made so far."""
        ...

    def size(self, path: str) -> int:
        """Size of a file in bytes.

        Raises:
            CheckpointError: there is no such file, or it lies outside the repo.
        """
        ...

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes | memoryview]:
        """Yield the bytes of each half-open `(start, stop)` range, in the order asked.

        Raises:
            CheckpointError: the file is shorter than asked, or cannot be read.
        """
        ...


class VectorIndex(Protocol):
    """Inner-product search over unit vectors."""

    @property
    def size(self) -> int:
        """Number of vectors."""
        ...

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` largest inner products of each query.

        Args:
            queries: `[n, dimension]`.
            k: how many; at most `size` are returned.

        Returns:
            scores `[n, min(k, size)]` in falling order, and the row of each; equal scores by rising row.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the index so that `load` of the same class maps it back."""
        ...
