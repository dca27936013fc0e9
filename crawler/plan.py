"""Which bytes of which file are read: pure planning over validated header entries.

In `full` mode every row of every numeric tensor is read, in chunks. In `sampled` mode only the bands of rows with
cells of the weight sample are read: five bands of an attention matrix, one of a feed-forward matrix (five short ones if
it is stored transposed), whole vectors, and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.architectures.rows import rows_index
from provenance.crawler.formats.dtypes import is_numeric, stored_bytes, unit
from provenance.schemas.roles import MAIN_STACK, VECTORS, Role
from provenance.schemas.sampling import OFFSETS, VECTOR_BUDGET, is_sampled, matrix_cells, sequence
from provenance.schemas.tensors import LogicalTensor, OutputRows, TensorEntry

KIB, MIB = 1024, 1024 * 1024
MAX_RANGE_BYTES = 16 * MIB
"""Maximum bytes of a single read; it limits memory for a tensor of any size."""

MAX_VECTOR_ELEMENTS = 1 << 20
"""Of a longer vector only the cells of the sample are read."""


@dataclass(frozen=True, slots=True)
class SampleSize:
    """How much a sampled crawl reads.

    Attributes:
        band_bytes: a band of rows is stretched to this many bytes (never below the rows of a tile).
        gap_bytes: two bands with at most this many bytes between them are read as one range.
    """

    band_bytes: int
    gap_bytes: int


SAMPLE_SIZES = {
    "small": SampleSize(0, 0),
    "default": SampleSize(32 * KIB, 32 * KIB),
    "large": SampleSize(256 * KIB, 128 * KIB),
}
"""Presets. A band is never thinner than the 4 rows of a tile, which hold its sample cells.

So `small` reads less than `default` only if 4 rows are shorter than 32 KiB: below a width of 4,096 at 16 bits. For
wider matrices (7B models and larger) the two read the same bands, and less could be read only with fewer cells.
"""


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """One stored matrix, the logical tensors in it, and the bands of stored rows to read.

    Vectors are matrices of one column. `bands` are half-open row intervals, increasing and disjoint. A row of a block
    type is a whole number of blocks, of `row_bytes` together.
    """

    entry: TensorEntry
    parts: tuple[LogicalTensor, ...]
    offset: int
    rows: int
    columns: int
    row_bytes: int
    bands: tuple[tuple[int, int], ...]

    @property
    def complete(self) -> bool:
        """Whether every row is read."""
        return sum(stop - start for start, stop in self.bands) == self.rows


@dataclass(frozen=True, slots=True)
class Piece:
    """One band of one matrix inside a byte range."""

    plan: MatrixPlan
    first_row: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One read of a file, and the bands in it."""

    start: int
    stop: int
    pieces: tuple[Piece, ...]


def plan_matrices(tensors: Sequence[LogicalTensor], size: SampleSize | None) -> list[MatrixPlan]:
    """Plan the reads of every stored matrix.

    Args:
        tensors: all logical tensors of a checkpoint.
        size: how much a sampled crawl reads; null reads everything.

    Returns:
        plans in file order; tensors that are not read (by choice, or because of a non-numeric dtype) have none.
    """
    groups: dict[tuple[str, str, int], list[LogicalTensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.entry.file, tensor.name, tensor.element_offset].append(tensor)
    plans = [plan for parts in groups.values() if (plan := _plan_matrix(tuple(parts), size)) is not None]
    return sorted(plans, key=lambda plan: (plan.entry.file, plan.offset))


def plan_ranges(plans: Iterable[MatrixPlan], gap_bytes: int) -> dict[str, list[ByteRange]]:
    """Byte ranges per file: neighbouring bands closer than `gap_bytes` are read together.

    Returns:
        file -> ranges in increasing order, none longer than `MAX_RANGE_BYTES` unless a single row is.
    """
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for plan in plans:
        for first, last in plan.bands:
            start = plan.offset + first * plan.row_bytes
            pieces[plan.entry.file].append(Piece(plan, first, start, start + (last - first) * plan.row_bytes))
    return {file: list(_coalesce(sorted(own, key=lambda p: p.start), gap_bytes)) for file, own in pieces.items()}


def _coalesce(pieces: Sequence[Piece], gap_bytes: int) -> Iterator[ByteRange]:
    group: list[Piece] = []
    for piece in pieces:
        if group and (piece.start - group[-1].stop > gap_bytes or piece.stop - group[0].start > MAX_RANGE_BYTES):
            yield ByteRange(group[0].start, group[-1].stop, tuple(group))
            group = []
        group.append(piece)
    if group:
        yield ByteRange(group[0].start, group[-1].stop, tuple(group))


def _plan_matrix(parts: tuple[LogicalTensor, ...], size: SampleSize | None) -> MatrixPlan | None:
    entry = parts[0].entry
    if not is_numeric(entry.dtype) or entry.n_elements == 0:
        return None
    rows, columns = _stored_shape(parts[0])
    row_bytes = stored_bytes(entry.dtype, columns)
    if size is None:
        bands = chunks(0, rows, row_bytes, columns)
    else:
        wanted = sorted({band for part in parts for band in _wanted_rows(part, rows)})
        stretched = _stretch(wanted, rows, row_bytes, size.band_bytes)
        bands = tuple(piece for low, high in stretched for piece in chunks(low, high, row_bytes, columns))
    if not bands:
        return None
    offset = entry.start + stored_bytes(entry.dtype, parts[0].element_offset)
    return MatrixPlan(entry, parts, offset, rows, columns, row_bytes, bands)


def _stored_shape(part: LogicalTensor) -> tuple[int, int]:
    shape = part.stored_shape or part.entry.shape
    if len(shape) == 2:
        return shape[0], shape[1]
    # Vectors, scalars and tensors of other ranks (convolutions, stacks that are not split) are one column, of blocks if
    # they are stored in blocks.
    n = 1
    for length in shape:
        n *= length
    elements, _ = unit(part.entry.dtype)
    return n // elements, elements


def chunks(low: int, high: int, row_bytes: int, columns: int) -> tuple[tuple[int, int], ...]:
    """Cut a band of rows so that no piece has more than `MAX_RANGE_BYTES`, or as many elements."""
    step = max(1, MAX_RANGE_BYTES // max(row_bytes, columns))
    return tuple((start, min(high, start + step)) for start in range(low, high, step))


def _wanted_rows(part: LogicalTensor, rows: int) -> Iterable[tuple[int, int]]:
    """Stored rows that hold a part's sample cells, as half-open intervals."""
    if len(part.shape) == 1 and part.entry.n_elements <= MAX_VECTOR_ELEMENTS:
        return [(0, rows)]
    where = cell_positions(part)
    if where is None or not len(where):
        return []
    if len(part.shape) == 1:
        return [(0, int(where[:, 0].max()) + 1)]
    return _tile_rows(part.role, (part.shape[0], part.shape[1]), part.transposed, part.rows)


def cell_positions(tensor: LogicalTensor) -> NDArray[np.int64] | None:
    """Stored `(row, column)` of every sample cell `[n, 2]` in sampling order, or null if the tensor has none."""
    if tensor.stack != MAIN_STACK or not is_sampled(tensor.role, tensor.expert):
        return None
    if len(tensor.shape) != 2 and not (len(tensor.shape) == 1 and tensor.role in VECTORS):
        return None
    return _cells(tensor.role, tensor.shape, tensor.transposed, tensor.rows)


# The layers of a model have the same shapes: what depends only on role and shape is computed once.
@lru_cache(maxsize=128)
def _cells(role: Role, shape: tuple[int, ...], transposed: bool, rows: OutputRows | None) -> NDArray[np.int64]:
    if len(shape) == 1:
        out = np.arange(min(shape[0], VECTOR_BUDGET))
        column = np.zeros_like(out)
    else:
        _, out, column = sequence()[matrix_cells((shape[0], shape[1]), role)].T
    stored = out if rows is None else rows_index(rows)[out]
    positions = np.stack([column, stored] if transposed else [stored, column], axis=1)
    positions.flags.writeable = False
    return positions


@lru_cache(maxsize=128)
def _tile_rows(
    role: Role, shape: tuple[int, int], transposed: bool, rows: OutputRows | None
) -> tuple[tuple[int, int], ...]:
    """For each line of tiles along the stored rows, the interval of rows from its first to its last cell."""
    tiles = sequence()[matrix_cells(shape, role), 0]
    lines = tiles % len(OFFSETS) if transposed else tiles // len(OFFSETS)
    stored = _cells(role, shape, transposed, rows)[:, 0]
    return tuple((int(stored[lines == line].min()), int(stored[lines == line].max()) + 1) for line in np.unique(lines))


def _stretch(
    wanted: Sequence[tuple[int, int]], rows: int, row_bytes: int, band_bytes: int
) -> tuple[tuple[int, int], ...]:
    """Extend intervals to the size of a band, inside the matrix, and merge those that touch."""
    height = -(-band_bytes // row_bytes)
    bands: list[tuple[int, int]] = []
    for low, high in wanted:
        stop = min(rows, max(high, low + height))
        start = max(0, min(low, stop - height))
        if bands and start <= bands[-1][1]:
            bands[-1] = (min(start, bands[-1][0]), max(stop, bands[-1][1]))
        else:
            bands.append((start, stop))
    return tuple(bands)
