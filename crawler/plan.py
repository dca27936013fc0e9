"""Which bytes of which file are read: pure planning over validated header entries.

In `full` mode every row of every numeric tensor is read, in chunks. In `sampled` mode only the bands of rows with
cells of the weight sample are read: five bands of an attention matrix, one of a feed-forward matrix (five short ones if
it is stored transposed), whole vectors, and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.cells import wanted_rows
from provenance.crawler.formats.dtypes import decode, is_numeric, stored_bytes, unit
from provenance.crawler.formats.packing.packed import Bytes, PackedEntry, Span
from provenance.crawler.packed_bands import aligned, as_stored, packed_bands, width_of
from provenance.schemas.tensors import LogicalTensor, Order, TensorEntry

Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

KIB, MIB = 1024, 1024 * 1024
MAX_RANGE_BYTES = 16 * MIB
"""Maximum bytes of a single read; it limits memory for a tensor of any size."""

BATCH_BYTES = 16 * MIB
"""Maximum bytes of packed matrices that wait for those of their scales, which lie elsewhere."""

PACKED_GAP = 2
"""How many times as long a gap may be in a packed checkpoint, whose matrices have more and shorter spans."""


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

    Vectors are matrices of one column. `bands` are half-open row intervals, increasing and disjoint. `offset` and
    `row_bytes` are those of a matrix that is stored as it is, or in blocks, of which a row has a whole number; a packed
    one knows itself where its bytes are.
    """

    entry: TensorEntry
    parts: tuple[LogicalTensor, ...]
    offset: int
    rows: int
    columns: int
    row_bytes: int
    bands: tuple[tuple[int, int], ...]

    def spans(self, low: int, high: int) -> Sequence[Span]:
        """The bytes of a band: one run, or one in each of the tensors that make a packed matrix."""
        if isinstance(self.entry, PackedEntry):
            before = self.parts[0].element_offset // self.columns
            return self.entry.packing.spans(before + low, before + high)
        start = self.offset + low * self.row_bytes
        return (Span(self.entry.file, start, start + (high - low) * self.row_bytes),)

    def decode(self, bands: Sequence[tuple[int, int]], data: Sequence[Sequence[Bytes]]) -> Floats:
        """The weights `[rows, columns]` of some bands, one after the other, from the bytes of the spans of each.

        Raises:
            CheckpointError: the bytes of a packed matrix make no sense.
        """
        if isinstance(self.entry, PackedEntry):
            before = self.parts[0].element_offset // self.columns
            read = self.entry.packing.rows
            with np.errstate(all="ignore"):  # scales may be infinite or NaN; so are the weights then: they are counted
                found = [read(before + low, before + high, own) for (low, high), own in zip(bands, data, strict=True)]
            return found[0] if len(found) == 1 else np.concatenate(found)
        joined = data[0][0] if len(data) == 1 else b"".join(own[0] for own in data)
        return decode(joined, self.entry.dtype).reshape(-1, self.columns)

    @property
    def complete(self) -> bool:
        """Whether every row is read."""
        return sum(stop - start for start, stop in self.bands) == self.rows


@dataclass(frozen=True, slots=True)
class Piece:
    """One span of one band of one matrix inside a byte range.

    Attributes:
        rows: the band, as a half-open interval of stored rows.
        index: which of the band's spans it is.
        of: how many spans the band has.
    """

    plan: MatrixPlan
    rows: tuple[int, int]
    index: int
    of: int
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
    return _ranges(((plan, band) for plan in plans for band in plan.bands), gap_bytes)


def plan_batches(plans: Iterable[MatrixPlan], gap_bytes: int) -> Iterator[dict[str, list[ByteRange]]]:
    """As `plan_ranges`, but no more than `BATCH_BYTES` of packed matrices at a time.

    A matrix stored as it is can be measured when its bytes arrive, a packed one when those of its scales have arrived
    too. So all matrices of a checkpoint without packed ones are one batch.
    """
    plans = list(plans)
    if any(isinstance(plan.entry, PackedEntry) for plan in plans):
        gap_bytes *= PACKED_GAP
    batch: list[tuple[MatrixPlan, tuple[int, int]]] = []
    waiting = 0
    for plan in plans:
        for band in plan.bands:
            own = sum(s.stop - s.start for s in plan.spans(*band)) if isinstance(plan.entry, PackedEntry) else 0
            if batch and waiting + own > BATCH_BYTES:
                yield _ranges(batch, gap_bytes)
                batch, waiting = [], 0
            batch.append((plan, band))
            waiting += own
    if batch:
        yield _ranges(batch, gap_bytes)


def _ranges(bands: Iterable[tuple[MatrixPlan, tuple[int, int]]], gap_bytes: int) -> dict[str, list[ByteRange]]:
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for plan, band in bands:
        spans = plan.spans(*band)
        for i, span in enumerate(spans):
            pieces[span.file].append(Piece(plan, band, i, len(spans), span.start, span.stop))
    return {file: list(_coalesce(sorted(own, key=lambda p: p.start), gap_bytes)) for file, own in pieces.items()}


def _coalesce(pieces: Sequence[Piece], gap_bytes: int) -> Iterator[ByteRange]:
    group: list[Piece] = []
    stop = 0
    for piece in pieces:
        # Spans of scales that several bands share overlap; `stop` is the last byte of any of them.
        if group and (piece.start - stop > gap_bytes or max(stop, piece.stop) - group[0].start > MAX_RANGE_BYTES):
            yield ByteRange(group[0].start, stop, tuple(group))
            group, stop = [], 0
        group.append(piece)
        stop = max(stop, piece.stop)
    if group:
        yield ByteRange(group[0].start, stop, tuple(group))


def _plan_matrix(parts: tuple[LogicalTensor, ...], size: SampleSize | None) -> MatrixPlan | None:
    entry = parts[0].entry
    if isinstance(entry, PackedEntry):
        return _plan_packed(entry, tuple(as_stored(part) for part in parts), size)
    if not is_numeric(entry.dtype) or entry.n_elements == 0 or entry.order is Order.APART:
        return None
    rows, columns = _stored_shape(parts[0])
    row_bytes = stored_bytes(entry.dtype, columns)
    if size is None:
        bands = chunks(0, rows, row_bytes, columns)
    else:
        wanted = sorted({band for part in parts for band in wanted_rows(part, rows)})
        stretched = _stretch(wanted, rows, row_bytes, size.band_bytes)
        bands = tuple(piece for low, high in stretched for piece in chunks(low, high, row_bytes, columns))
    if not bands:
        return None
    offset = entry.start + stored_bytes(entry.dtype, parts[0].element_offset)
    return MatrixPlan(entry, parts, offset, rows, columns, row_bytes, bands)


def _plan_packed(entry: PackedEntry, parts: tuple[LogicalTensor, ...], size: SampleSize | None) -> MatrixPlan | None:
    packing = entry.packing
    stored = parts[0].stored_shape
    # A stack that was not split into its matrices is one matrix of all their rows.
    rows, columns = stored if len(stored) == 2 and stored[1] == packing.shape[1] else packing.shape
    if size is None:
        bands = packed_bands(entry, [(0, rows)])
    else:
        wanted = aligned(sorted({band for part in parts for band in wanted_rows(part, rows)}), rows, packing.step)
        # As many weights as of a matrix of 16 bits: a band is for its number of weights.
        bands = packed_bands(entry, _stretch(wanted, rows, 2 * columns, size.band_bytes))
        width = width_of(parts, columns, sum(high - low for low, high in bands), size.band_bytes)
        packing = packing.narrowed(width) if width < columns else packing
        entry, columns = replace(entry, packing=packing), packing.shape[1]
    return MatrixPlan(entry, parts, entry.start, rows, columns, 0, bands) if bands else None


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
