"""Which rows, and how many columns of them, are read of a packed matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from provenance.crawler.cells import cell_positions, tile_rows
from provenance.crawler.formats.packing.packed import PackedEntry
from provenance.schemas.tensors import LogicalTensor

MAX_UNPACKED = 1 << 21
"""Maximum weights of a packed matrix that are unpacked at a time; unless its rows are longer."""


def packed_bands(entry: PackedEntry, wanted: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Intervals of rows, in bands that are unpacked at a time."""
    rows, columns = entry.packing.shape
    step = entry.packing.step
    height = max(1, MAX_UNPACKED // (columns * step)) * step
    return tuple(
        (start, min(high, start + height))
        for low, high in aligned(wanted, rows, step)
        for start in range(low, high, height)
    )


def aligned(bands: Iterable[tuple[int, int]], rows: int, step: int) -> list[tuple[int, int]]:
    """Intervals extended to multiples of `step`, those that touch merged."""
    found: list[tuple[int, int]] = []
    for low, high in bands:
        start, stop = low // step * step, min(rows, -(-high // step) * step)
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found


def as_stored(tensor: LogicalTensor) -> LogicalTensor:
    """A packed matrix in the orientation in which its format stores it; any other tensor as it is."""
    if not isinstance(tensor.entry, PackedEntry) or not tensor.entry.packing.transposed:
        return tensor
    return replace(tensor, transposed=not tensor.transposed, stored_shape=tensor.stored_shape[::-1])


def width_of(parts: tuple[LogicalTensor, ...], columns: int, rows: int, band_bytes: int) -> int:
    """How many columns of some rows are read: all with sample cells, and as many weights as of a matrix `[out, in]`.

    A matrix whose rows are its inputs has bands for five tiles, where the same one stored the other way has a band for
    each row of tiles; and a row of it may be a hundred times as long as what is wanted of it.
    """
    (part, *others) = parts
    where = cell_positions(part)
    if not rows or others or part.rows is not None or not part.transposed or len(part.shape) != 2 or where is None:
        return columns
    lines = len(tile_rows(part.role, (part.shape[0], part.shape[1]), False, None))
    wanted = max(int(where[:, 1].max()) + 1, -(-lines * band_bytes // 2 // rows))
    return min(columns, -(-wanted // 32) * 32)
