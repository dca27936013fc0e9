"""Which bytes of which file are read: pure planning over validated header entries.

In `full` mode every row of every numeric tensor is read, in chunks. In `sampled` mode only bands of rows that hold
the cells of the weight sample are: five bands of an attention matrix, one of a feed-forward matrix (five short
ones where it is stored transposed), vectors whole, and nothing of the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from crawler.architectures.rows import rows_index
from crawler.dequantize import is_numeric
from crawler.header import DTYPE_BITS
from schemas.records import LogicalTensor, TensorEntry
from schemas.roles import MAIN_STACK
from schemas.sampling import OFFSETS, TILE, VECTOR_BUDGET, is_sampled, matrix_cells, sequence

KIB, MIB = 1024, 1024 * 1024
MAX_RANGE_BYTES = 16 * MIB
"""No single read is longer: what bounds memory, whatever the size of a tensor."""

MAX_VECTOR_ELEMENTS = 1 << 20
"""Of a longer vector only the cells of the sample are read."""


@dataclass(frozen=True, slots=True)
class SampleSize:
    """How much a sampled crawl reads.

    Attributes:
        band_bytes: a band of rows is stretched to this many bytes (never below the rows of a tile).
        gap_bytes: two bands this close are read as one range.
    """

    band_bytes: int
    gap_bytes: int


SAMPLE_SIZES = {
    "small": SampleSize(0, 0),
    "default": SampleSize(32 * KIB, 32 * KIB),
    "large": SampleSize(256 * KIB, 128 * KIB),
}


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """One stored matrix, the logical tensors in it, and the bands of stored rows to read.

    Vectors are matrices of one column. `bands` are half-open row intervals, rising and apart.
    """

    entry: TensorEntry
    parts: tuple[LogicalTensor, ...]
    offset: int
    rows: int
    columns: int
    item_bytes: int
    bands: tuple[tuple[int, int], ...]

    @property
    def row_bytes(self) -> int:
        return self.columns * self.item_bytes

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
    """One read of a file, and the bands that lie in it."""

    start: int
    stop: int
    pieces: tuple[Piece, ...]


def plan_matrices(tensors: Sequence[LogicalTensor], size: SampleSize | None) -> list[MatrixPlan]:
    """Plan every stored matrix that is to be read.

    Args:
        tensors: all logical tensors of a checkpoint.
        size: how much a sampled crawl reads; null reads everything.

    Returns:
        plans in file order; tensors that are not read (by choice, or because their dtype has no numbers) have none.
    """
    groups: dict[tuple[str, str, int], list[LogicalTensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.entry.file, tensor.name, tensor.element_offset].append(tensor)
    plans = [plan for parts in groups.values() if (plan := _plan_matrix(tuple(parts), size)) is not None]
    return sorted(plans, key=lambda plan: (plan.entry.file, plan.offset))


def plan_ranges(plans: Iterable[MatrixPlan], gap_bytes: int) -> dict[str, list[ByteRange]]:
    """Byte ranges per file: neighbouring bands closer than `gap_bytes` are read together.

    Returns:
        file -> ranges in rising order, none longer than `MAX_RANGE_BYTES` unless one row is.
    """
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for plan in plans:
        for first, last in plan.bands:
            start = plan.offset + first * plan.row_bytes
            pieces[plan.entry.file].append(Piece(plan, first, start, start + (last - first) * plan.row_bytes))
    return {file: list(_coalesce(sorted(found, key=lambda p: p.start), gap_bytes)) for file, found in pieces.items()}


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
    item_bytes = DTYPE_BITS[entry.dtype] // 8
    rows, columns = _stored_shape(parts[0])
    if size is None:
        bands = _chunks(rows, columns * item_bytes)
    else:
        wanted = sorted({band for part in parts for band in _wanted_rows(part, rows)})
        bands = _stretch(wanted, rows, columns * item_bytes, size.band_bytes)
    if not bands:
        return None
    offset = entry.start + parts[0].element_offset * item_bytes
    return MatrixPlan(entry, parts, offset, rows, columns, item_bytes, bands)


def _stored_shape(part: LogicalTensor) -> tuple[int, int]:
    shape = part.stored_shape or part.entry.shape
    if len(shape) == 2:
        return shape[0], shape[1]
    # Vectors, scalars and tensors of other ranks (convolutions, stacks nobody split) are one column.
    n = 1
    for length in shape:
        n *= length
    return n, 1


def _chunks(rows: int, row_bytes: int) -> tuple[tuple[int, int], ...]:
    step = max(1, MAX_RANGE_BYTES // row_bytes)
    return tuple((start, min(rows, start + step)) for start in range(0, rows, step))


def _wanted_rows(part: LogicalTensor, rows: int) -> Iterator[tuple[int, int]]:
    """Stored rows that hold a part's sample cells, as half-open intervals."""
    sampled = part.stack == MAIN_STACK and is_sampled(part.role, part.expert)
    if len(part.shape) == 1:
        if part.entry.n_elements <= MAX_VECTOR_ELEMENTS:
            yield 0, rows
        elif sampled:
            yield 0, VECTOR_BUDGET if part.rows is None else int(rows_index(part.rows)[:VECTOR_BUDGET].max()) + 1
        return
    if not sampled or len(part.shape) != 2:
        return
    cells = sequence()[matrix_cells((part.shape[0], part.shape[1]), part.role)]
    along = cells[:, 2] if part.transposed else cells[:, 1]
    stored = None if part.transposed or part.rows is None else rows_index(part.rows)
    for offset in OFFSETS:
        lines = np.unique(along[(along >= offset) & (along < offset + TILE)])
        if len(lines):
            lines = lines if stored is None else stored[lines]
            yield int(lines.min()), int(lines.max()) + 1


def _stretch(
    wanted: Sequence[tuple[int, int]], rows: int, row_bytes: int, band_bytes: int
) -> tuple[tuple[int, int], ...]:
    """Stretch intervals to the size of a band, inside the matrix, and join those that meet."""
    height = -(-band_bytes // row_bytes)
    bands: list[tuple[int, int]] = []
    for low, high in wanted:
        stop = min(rows, max(high, low + height))
        start = max(0, min(low, stop - height))
        if bands and start <= bands[-1][1]:
            bands[-1] = (min(start, bands[-1][0]), max(stop, bands[-1][1]))
        else:
            bands.append((start, stop))
    return tuple(piece for low, high in bands for piece in _split(low, high, row_bytes))


def _split(low: int, high: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    for start, stop in _chunks(high - low, row_bytes):
        yield low + start, low + stop
