"""Bands of bytes in, statistics and sample cells of every logical tensor out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.architectures.rows import rows_index
from provenance.crawler.bands import read_bands
from provenance.crawler.cells import cell_positions
from provenance.crawler.formats.packing.packed import Bytes
from provenance.crawler.plan import MatrixPlan, plan_batches
from provenance.crawler.statistics import Moments
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import LogicalTensor, TensorStatistics

Floats = NDArray[np.float32] | NDArray[np.float64]

See: TypeAlias = Callable[[LogicalTensor, int, Floats], object]
"""Is shown each chunk of a matrix that is read whole: its tensor, the first stored row, the rows `[n, columns]`."""

# With the leading dot: `c_attn.bias` is a bias, `attn.bias` a mask.
_KNOWN_BUFFERS = (".inv_freq", ".rotary_emb", ".masked_bias", ".position_ids", ".attn.bias", ".attention.bias")


class TensorScan:
    """Collects the statistics and the sample cells of one logical tensor.

    Attributes:
        tensor: the logical tensor.
        cells: float64 sample cells in sampling order, complete after all bands were fed; null for tensors without any.
    """

    def __init__(self, tensor: LogicalTensor, *, complete: bool) -> None:
        self.tensor = tensor
        self._moments = Moments()
        self._complete = complete
        self._heights: list[int] = []
        self._sorted = None if tensor.rows is None else np.sort(rows_index(tensor.rows))
        self._where = cell_positions(tensor)
        self.cells = None if self._where is None else np.full(len(self._where), np.nan)

    def feed(self, bands: Sequence[tuple[int, int]], rows: Floats) -> None:
        """Add bands of the stored matrix: `rows` `[n, columns]` are the half-open row intervals, concatenated."""
        first = 0
        for low, high in bands:
            if self._where is not None and self.cells is not None:
                inside = (self._where[:, 0] >= low) & (self._where[:, 0] < high)
                self.cells[inside] = rows[self._where[inside, 0] - low + first, self._where[inside, 1]]
            first += high - low
        own, heights = self._own(bands, rows)
        if self._complete:
            self._moments.update(own)
        else:
            self._moments.update_rows(own)
            self._heights += heights

    def statistics(self) -> TensorStatistics:
        if self._complete:
            return self._moments.result()
        n_elements = int(np.prod(self.tensor.shape, dtype=np.int64))
        return self._moments.result(self._moments.std_error(self._heights, n_elements))

    def digest(self) -> str | None:
        """Digest of shape, dtype and canonical cells.

        Null for constants, for known buffers, and for tensors without cells or without any finite value.
        """
        if self.cells is None or len(self.cells) == 0 or f".{self.tensor.name}".endswith(_KNOWN_BUFFERS):
            return None
        finite = self.cells[np.isfinite(self.cells)]
        if len(finite) == 0 or np.all(finite == finite[0]):
            return None
        label = f"{self.tensor.entry.dtype}|{self.tensor.shape}|".encode()
        # Adding zero makes -0.0 and 0.0 one value.
        return hashlib.sha256(label + (self.cells + 0.0).tobytes()).hexdigest()[:32]

    def _own(self, bands: Sequence[tuple[int, int]], rows: Floats) -> tuple[Floats, list[int]]:
        """The rows of some bands that belong to this tensor, and their number in each band."""
        heights = [high - low for low, high in bands]
        if self._sorted is None:
            return rows, heights
        if self.tensor.transposed:
            return rows[:, _as_slice(self._sorted)], heights
        spans = np.searchsorted(self._sorted, bands)
        firsts = np.cumsum([0, *heights])
        index = [self._sorted[i:j] - low + first for (i, j), (low, _), first in zip(spans, bands, firsts, strict=False)]
        return rows[_as_slice(np.concatenate(index))], [len(part) for part in index]


class _Matrix:
    """A stored matrix while its bands are read.

    The bands of a sampled matrix are decoded and measured together: every call of numpy releases and takes the
    interpreter lock, so workers wait for each other less with few large calls than with many small ones.
    """

    def __init__(self, plan: MatrixPlan, see: See | None) -> None:
        self.plan, self._see = plan, see if plan.complete else None
        self.scans = [TensorScan(part, complete=plan.complete) for part in plan.parts]
        self._missing = len(plan.bands)
        self._bands: list[tuple[int, int]] = []
        self._data: list[Sequence[Bytes]] = []

    def add(self, band: tuple[int, int], data: Sequence[Bytes]) -> bool:
        """Add the bytes of a band; whether it was the last one."""
        self._bands.append(band)
        self._data.append(data)
        self._missing -= 1
        if self.plan.complete or not self._missing:  # chunk by chunk: a whole matrix may have many
            rows = self.plan.decode(self._bands, self._data)
            for scan in self.scans:
                scan.feed(self._bands, rows)
                if self._see is not None:
                    self._see(scan.tensor, band[0], rows)
            self._bands, self._data = [], []
        return not self._missing


def scan_matrices(
    reader: TensorReader, plans: Sequence[MatrixPlan], gap_bytes: int, see: See | None = None
) -> Iterator[TensorScan]:
    """Read the bands of planned matrices and yield each logical tensor once the last band of its matrix was read.

    At any time, memory holds one chunk of a matrix that is read whole, or the ranges with the bands of one matrix; only
    the first and the last of these contain data of other matrices. Of packed matrices it also holds one batch.

    Args:
        reader: reads the files.
        plans: in file order.
        gap_bytes: bands with at most this many bytes between them are read as one range.
        see: is shown every matrix that is read whole.

    Raises:
        CheckpointError: a file is shorter than its header says, cannot be read, or a packed matrix makes no sense.
    """
    started: dict[int, _Matrix] = {}
    for ranges in plan_batches(plans, gap_bytes):
        for plan, band, data in read_bands(reader, ranges):
            matrix = started.get(id(plan)) or started.setdefault(id(plan), _Matrix(plan, see))
            if matrix.add(band, data):
                yield from started.pop(id(plan)).scans


def _as_slice(index: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """A contiguous index as a slice: a view instead of a copy."""
    if len(index) and index[-1] - index[0] + 1 == len(index):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
