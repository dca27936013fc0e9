"""Inner-product search over unit vectors: an exact scan in numpy, and FAISS, behind `schemas.protocols.VectorIndex`.

Matrix kernels round the score of a row differently at different positions in the matrix, so two copies of a vector may
get scores that differ in the last bit. Both indexes therefore use their fast kernel only to find candidates (all rows
within its rounding error of the k-th score), compute their scores again row by row in float64, and sort them by
decreasing score, equal scores by increasing row. So both give the same answer bit for bit, also with ties at the k-th
place. Files are memory-mapped, never unpickled.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from provenance.schemas.errors import IndexMissingError, StoreCorruptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK_SCORES = 1 << 24
"""Scores in memory at a time in the exact scan: 64 MiB."""

MARGIN = 16
"""Neighbours requested from FAISS beyond k, to detect ties at the k-th score."""

_FAISS_FLAT = struct.Struct("<4siqqqBiQ")
"""Header of a FAISS flat index: kind, dimension, vectors, two unused, trained, metric, number of floats that follow."""


class _Index(ABC):
    """Common part of both indexes: checks, exact scores and order."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of vectors."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length of a vector."""

    @abstractmethod
    def _candidates(
        self, queries: NDArray[np.float32], k: int, rounding: NDArray[np.float64]
    ) -> Iterator[NDArray[np.int64]]:
        """Yield for each query all rows with a score of at least the k-th largest minus its `rounding`."""

    @abstractmethod
    def _vectors_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors `[n, dimension]` of these rows."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` largest inner products of each query.

        Args:
            queries: `[n, dimension]`; a zero query scores 0 with every row.
            k: number of results, at least 1; at most `size` are returned.

        Returns:
            scores `[n, min(k, size)]` in decreasing order, and the row of each; equal scores by increasing row. Of
            scores tied at the k-th place the lowest rows are kept.

        Raises:
            ValueError: the queries have another dimension or hold NaN or infinities, or `k` is less than 1.
        """
        if k < 1:
            raise ValueError(f"cannot search for the {k} nearest vectors; k must be at least 1")
        queries = _matrix(queries, "queries")
        if queries.shape[1] != self.dimension:
            raise ValueError(
                f"queries of dimension {queries.shape[1]} do not fit an index of dimension {self.dimension}; "
                "were they made with the spec that the index was built with?"
            )
        k = min(k, self.size)
        best_scores = np.empty((len(queries), k), dtype=np.float32)
        best_rows = np.empty((len(queries), k), dtype=np.int64)
        if k == 0:
            return best_scores, best_rows
        # The error of a float32 inner product of length d is at most d * eps / 2 * |query| * |row|, and |row| is 1.
        # Both compared scores have this error, and rounding the exact scores to float32 makes ties too.
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        rounding = (self.dimension + 2) * float(np.finfo(np.float32).eps) * lengths
        for i, rows in enumerate(self._candidates(queries, k, rounding)):
            scores = (self._vectors_at(rows) * queries[i].astype(np.float64)).sum(axis=1).astype(np.float32)
            order = np.lexsort((rows, -scores))[:k]
            best_scores[i], best_rows[i] = scores[order], rows[order]
        return best_scores, best_rows


class ExactIndex(_Index):
    """A scan of a float32 matrix in numpy; a `.npy` file on disk."""

    SUFFIX: ClassVar = ".npy"

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        # A plain array instead of `np.memmap`, whose subclass every result would inherit.
        self._vectors = np.asarray(vectors)

    @classmethod
    def build(cls, vectors: NDArray[np.float32]) -> Self:
        """An index over unit (or zero) vectors `[n, dimension]`.

        Raises:
            ValueError: not a matrix, or it holds NaN or infinities.
        """
        return cls(_matrix(vectors, "vectors"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Map an index that `save` wrote.

        Raises:
            IndexMissingError: there is no such file.
            StoreCorruptError: the file is not a matrix of float32, or is truncated.
        """
        _require(path)
        try:
            vectors = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, TypeError, OverflowError, OSError, TokenError, SyntaxError) as error:
            raise _corrupt(path, str(error)) from error
        if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype != np.float32:
            raise _corrupt(path, f"it holds {vectors.dtype} {vectors.shape}, not a matrix of float32")
        return cls(vectors)

    @property
    def size(self) -> int:
        return int(self._vectors.shape[0])

    @property
    def dimension(self) -> int:
        return int(self._vectors.shape[1])

    def _candidates(
        self, queries: NDArray[np.float32], k: int, rounding: NDArray[np.float64]
    ) -> Iterator[NDArray[np.int64]]:
        step = max(1, BLOCK_SCORES // self.size)
        for start in range(0, len(queries), step):
            scores = queries[start : start + step] @ self._vectors.T
            kth = np.partition(scores, self.size - k, axis=1)[:, self.size - k]
            yield from map(np.flatnonzero, scores >= (kth - rounding[start : start + step])[:, np.newaxis])

    def _vectors_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._vectors[rows]

    def save(self, path: Path) -> None:
        """Write the matrix as `.npy`, replacing `path` atomically."""

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.save(file, self._vectors, allow_pickle=False)

        _replace(path, write)


class FlatIndex(_Index):
    """FAISS `IndexFlatIP`; a `.faiss` file on disk."""

    SUFFIX: ClassVar = ".faiss"

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(cls, vectors: NDArray[np.float32]) -> Self:
        """An index over unit (or zero) vectors `[n, dimension]`, which are copied.

        Raises:
            ValueError: not a matrix, or it holds NaN or infinities.
        """
        import faiss

        vectors = _matrix(vectors, "vectors")
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Map an index that `save` wrote.

        Raises:
            IndexMissingError: there is no such file.
            StoreCorruptError: the file is not a flat inner-product index, or is truncated.
        """
        import faiss

        _require(path)
        # FAISS maps a file without checking its length: a truncated one would end the process by a signal.
        with path.open("rb") as file:
            head = file.read(_FAISS_FLAT.size)
        if len(head) < _FAISS_FLAT.size:
            raise _corrupt(path, f"it ends after {len(head)} bytes, inside its header")
        kind, dimension, n, _, _, trained, metric, floats = _FAISS_FLAT.unpack(head)
        if (kind, trained, metric) != (b"IxFI", 1, faiss.METRIC_INNER_PRODUCT):
            raise _corrupt(path, "it does not begin as a FAISS IndexFlatIP does")
        length = _FAISS_FLAT.size + 4 * dimension * n
        if dimension < 1 or n < 0 or floats != dimension * n or path.stat().st_size != length:
            raise _corrupt(path, f"it announces {n} vectors of dimension {dimension}, its length says otherwise")
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))

    @property
    def size(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        return int(self._index.d)

    def _candidates(
        self, queries: NDArray[np.float32], k: int, rounding: NDArray[np.float64]
    ) -> Iterator[NDArray[np.int64]]:
        width = min(k + MARGIN, self.size)
        scores, rows = self._index.search(queries, width)
        lowest = scores[:, k - 1] - rounding
        for i, nearest in enumerate(rows):
            if width < self.size and scores[i, -1] >= lowest[i]:
                # More rows than the margin may be tied with the k-th. FAISS returns only scores above the radius.
                radius = np.nextafter(np.float32(lowest[i]), np.float32(-np.inf))
                _, _, nearest = self._index.range_search(queries[i : i + 1], float(radius))
            yield nearest

    def _vectors_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._index.reconstruct_batch(rows)
        return vectors

    def save(self, path: Path) -> None:
        """Write the index in the format of FAISS, replacing `path` atomically."""
        import faiss

        _replace(path, lambda partial: faiss.write_index(self._index, str(partial)))


def open_index(path: Path) -> ExactIndex | FlatIndex:
    """Map the index at `path`: `.npy` is an `ExactIndex`, `.faiss` a `FlatIndex`.

    Raises:
        ValueError: another suffix.
        IndexMissingError: there is no such file.
        StoreCorruptError: the file is not such an index, or is truncated.
    """
    match path.suffix:
        case ExactIndex.SUFFIX:
            return ExactIndex.load(path)
        case FlatIndex.SUFFIX:
            return FlatIndex.load(path)
        case _:
            raise ValueError(f"{path} is no vector index by its suffix {path.suffix!r}; expected .npy or .faiss")


def _matrix(vectors: NDArray[np.float32], label: str) -> NDArray[np.float32]:
    """`vectors` as a contiguous float32 matrix of finite values; `label` names them in the errors."""
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"{label} must be a matrix [n, dimension], got an array of shape {np.shape(vectors)}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{label} hold NaN or infinities; nothing is near them, drop them first")
    return matrix


def _require(path: Path) -> None:
    if not path.is_file():
        raise IndexMissingError(f"{path} does not exist; run `provenance index` to build it")


def _corrupt(path: Path, fault: str) -> StoreCorruptError:
    return StoreCorruptError(f"{path} is not a readable vector index: {fault}; run `provenance index` to rebuild it")


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary file and rename it: a reader, or this index itself, may have the old file mapped."""
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    partial.replace(path)
