"""Bands of bytes in, statistics and sample cells of every logical tensor out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from crawler.architectures.rows import rows_index
from crawler.dequantize import decode
from crawler.plan import ByteRange, MatrixPlan
from crawler.statistics import Moments, band_std_error
from schemas.protocols import TensorReader
from schemas.records import LogicalTensor, TensorStatistics
from schemas.roles import MAIN_STACK, VECTORS
from schemas.sampling import VECTOR_BUDGET, is_sampled, matrix_cells, sequence

# With the dot before: `c_attn.bias` is a bias, `attn.bias` a mask.
_KNOWN_BUFFERS = (".inv_freq", ".rotary_emb", ".masked_bias", ".position_ids", ".attn.bias", ".attention.bias")


class TensorScan:
    """Collects the statistics and the sample cells of one logical tensor, band by band.

    Attributes:
        tensor: the logical tensor.
        cells: float64 sample cells in sampling order once all bands were fed; null for tensors without any.
    """

    def __init__(self, tensor: LogicalTensor, *, complete: bool) -> None:
        self.tensor = tensor
        self._moments = Moments()
        self._complete = complete
        self._bands: list[NDArray[np.float32] | NDArray[np.float64]] = []
        self._rows = None if tensor.rows is None else rows_index(tensor.rows)
        self._sorted = None if self._rows is None else np.sort(self._rows)
        self._where = _cell_positions(tensor, self._rows)
        self.cells = None if self._where is None else np.full(len(self._where), np.nan)

    def feed(self, first_row: int, band: NDArray[np.float32] | NDArray[np.float64]) -> None:
        """Take one band `[rows, columns]` of the stored matrix that begins at `first_row`."""
        if self._where is not None and self.cells is not None:
            inside = (self._where[:, 0] >= first_row) & (self._where[:, 0] < first_row + len(band))
            self.cells[inside] = band[self._where[inside, 0] - first_row, self._where[inside, 1]]
        own = self._own(first_row, band)
        if own.size:
            self._moments.update(own)
            if not self._complete:
                self._bands.append(own)

    def statistics(self) -> TensorStatistics:
        n_elements = int(np.prod(self.tensor.shape, dtype=np.int64))
        return self._moments.result(0.0 if self._complete else band_std_error(self._bands, n_elements))

    def digest(self) -> str | None:
        """Digest of shape, dtype and canonical cells; null for constants, known buffers and tensors without cells."""
        if self.cells is None or len(self.cells) == 0 or f".{self.tensor.name}".endswith(_KNOWN_BUFFERS):
            return None
        if np.all(self.cells == self.cells[0]):
            return None
        label = f"{self.tensor.entry.dtype}|{self.tensor.shape}|".encode()
        # Adding zero makes -0.0 and 0.0 one value.
        return hashlib.sha256(label + (self.cells + 0.0).tobytes()).hexdigest()[:32]

    def _own(
        self, first_row: int, band: NDArray[np.float32] | NDArray[np.float64]
    ) -> NDArray[np.float32] | NDArray[np.float64]:
        if self._sorted is None:
            return band
        if self.tensor.transposed:
            return band[:, _as_slice(self._sorted)]
        low, high = np.searchsorted(self._sorted, (first_row, first_row + len(band)))
        return band[_as_slice(self._sorted[low:high] - first_row)]


def scan_matrices(reader: TensorReader, path: str, ranges: Sequence[ByteRange]) -> Iterator[TensorScan]:
    """Read the planned ranges of one file and yield each logical tensor as soon as its last band is in.

    At most one range and the tensors of one matrix are in memory at a time.
    """
    open_plan: MatrixPlan | None = None
    scans: list[TensorScan] = []
    for planned, data in zip(ranges, reader.read(path, [(r.start, r.stop) for r in ranges]), strict=True):
        view = memoryview(data)
        for piece in planned.pieces:
            if piece.plan is not open_plan:
                yield from scans
                open_plan = piece.plan
                scans = [TensorScan(part, complete=open_plan.complete) for part in open_plan.parts]
            raw = view[piece.start - planned.start : piece.stop - planned.start]
            band = decode(raw, piece.plan.entry.dtype).reshape(-1, piece.plan.columns)
            for scan in scans:
                scan.feed(piece.first_row, band)
    yield from scans


def _cell_positions(tensor: LogicalTensor, rows: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    """Stored `(row, column)` of every canonical cell `[n, 2]`, or null where the tensor has none."""
    if tensor.stack != MAIN_STACK or not is_sampled(tensor.role, tensor.expert):
        return None
    if tensor.role in VECTORS and len(tensor.shape) == 1:
        logical = np.arange(min(tensor.shape[0], VECTOR_BUDGET))
        stored = logical if rows is None else rows[logical]
        return np.stack([stored, np.zeros_like(stored)], axis=1)
    if len(tensor.shape) != 2:
        return None
    cells = sequence()[matrix_cells((tensor.shape[0], tensor.shape[1]), tensor.role)]
    out = cells[:, 1] if rows is None else rows[cells[:, 1]]
    return np.stack([cells[:, 2], out] if tensor.transposed else [out, cells[:, 2]], axis=1)


def _as_slice(index: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """A contiguous index as a slice: a view instead of a copy."""
    if len(index) and index[-1] - index[0] + 1 == len(index):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
