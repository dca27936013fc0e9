"""`sample-v1`: which cells of a matrix are sampled. Pure, versioned, and published with golden vectors.

A matrix is treated as `[out, in]`. Cells form 5 x 5 tiles of 4 x 4 whose corners are the absolute coordinates
`OFFSETS x OFFSETS`, the same for every role, layer and expert; cells outside the shape are dropped. So a
sample does not depend on sharding, dtype, storage orientation or on how many rows, columns or layers a relative
has: the sample of a sub-matrix is the part of the sample inside it. The offsets grow by a factor of
about three and fall at different places inside attention heads of 64, 80, 96 and 128 rows.

The cells have one fixed order: in each pass one cell of every tile, tiles by growing shell. A smaller sample is a
prefix of a larger one, and a short prefix still covers many tiles. Attention matrices use the whole
sequence, feed-forward matrices and routers (of which a sampled crawl reads one band) its first row of tiles, vectors
their leading elements. Any change here requires a new version and a new crawl.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from provenance.schemas.roles import ATTENTION, FEED_FORWARD, LATENT_ATTENTION, VECTORS, Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_VERSION = "sample-v1"
OFFSETS = (0, 20, 52, 196, 748)
TILE = 4
MATRIX_BUDGET = 12_288
VECTOR_BUDGET = 4_096
SAMPLE_CELLS = MATRIX_BUDGET + VECTOR_BUDGET
"""16,384 float16 values: 32 KiB per checkpoint."""

SAMPLED_EXPERTS = 2
"""Cells are kept of experts 0 and 1 only; a sampled crawl reads no others."""

SEQUENCE_LENGTH = len(OFFSETS) ** 2 * TILE**2
N_TILES = len(OFFSETS) ** 2

_WHOLE = frozenset(ATTENTION + LATENT_ATTENTION)
_FIRST_BAND = frozenset((*FEED_FORWARD, Role.ROUTER))
_VECTOR = frozenset(VECTORS)


def is_sampled(role: Role, expert: int | None) -> bool:
    """Whether tensors of this role and expert have sample cells."""
    if role in _VECTOR:
        return True
    return (role in _WHOLE or role in _FIRST_BAND) and (expert is None or expert < SAMPLED_EXPERTS)


@cache
def sequence() -> NDArray[np.int64]:
    """The fixed sequence of cells.

    Returns:
        `[400, 3]`: tile number (row of tiles * 5 + column of tiles), row, column, in sampling order.
    """
    n = len(OFFSETS)
    tiles = sorted(((a, b) for a in range(n) for b in range(n)), key=lambda t: (max(t), t))
    # Within a tile a Latin square: each pass of four touches every row and every column once.
    order = [(i, (i + shift) % TILE) for shift in range(TILE) for i in range(TILE)]
    cells = [(a * n + b, OFFSETS[a] + i, OFFSETS[b] + j) for i, j in order for a, b in tiles]
    return np.array(cells, dtype=np.int64)


@lru_cache(maxsize=4096)
def matrix_cells(shape: tuple[int, int], role: Role) -> NDArray[np.int64]:
    """The cells of a matrix, in sampling order.

    Args:
        shape: logical `(out, in)`.
        role: decides between the whole sequence and its first row of tiles.

    Returns:
        `[n]` positions in `sequence()` of the cells inside `shape`.
    """
    cells = sequence()
    inside = (cells[:, 1] < shape[0]) & (cells[:, 2] < shape[1])
    if role in _FIRST_BAND:
        inside &= cells[:, 0] < len(OFFSETS)
    positions = np.flatnonzero(inside)
    positions.flags.writeable = False
    return positions


def n_cells(role: Role, shape: Sequence[int]) -> int:
    """How many sample cells a tensor of this role and shape has before any budget."""
    if role in _VECTOR:
        return shape[0] if len(shape) == 1 else 0
    return len(matrix_cells((shape[0], shape[1]), role)) if len(shape) == 2 else 0


def allot(available: Sequence[int], budget: int) -> list[int]:
    """Divide a budget of cells among tensors: each keeps a prefix, of one common length if it has that many.

    Args:
        available: cells each tensor has.
        budget: total number of cells that may be kept.

    Returns:
        number of cells kept of each, for the largest common prefix length whose sum fits `budget`.
    """
    low, high = 0, max(available, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(n, middle) for n in available) <= budget:
            low = middle
        else:
            high = middle - 1
    return [min(n, low) for n in available]
