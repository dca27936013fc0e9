"""Where the cells of the weight sample lie in a matrix as it is stored: which rows, and which columns of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.architectures.rows import rows_index
from provenance.schemas.roles import MAIN_STACK, VECTORS, Role
from provenance.schemas.sampling import OFFSETS, VECTOR_BUDGET, is_sampled, matrix_cells, sequence
from provenance.schemas.tensors import LogicalTensor, OutputRows

MAX_VECTOR_ELEMENTS = 1 << 20
"""Of a longer vector only the cells of the sample are read."""


def wanted_rows(part: LogicalTensor, rows: int) -> Iterable[tuple[int, int]]:
    """Stored rows that hold a part's sample cells, as half-open intervals."""
    if len(part.shape) == 1 and part.entry.n_elements <= MAX_VECTOR_ELEMENTS:
        return [(0, rows)]
    where = cell_positions(part)
    if where is None or not len(where):
        return []
    if len(part.shape) == 1:
        return [(0, int(where[:, 0].max()) + 1)]
    return tile_rows(part.role, (part.shape[0], part.shape[1]), part.transposed, part.rows)


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
def tile_rows(
    role: Role, shape: tuple[int, int], transposed: bool, rows: OutputRows | None
) -> tuple[tuple[int, int], ...]:
    """For each line of tiles along the stored rows, the interval of rows from its first to its last cell."""
    tiles = sequence()[matrix_cells(shape, role), 0]
    lines = tiles % len(OFFSETS) if transposed else tiles // len(OFFSETS)
    stored = _cells(role, shape, transposed, rows)[:, 0]
    return tuple((int(stored[lines == line].min()), int(stored[lines == line].max()) + 1) for line in np.unique(lines))
