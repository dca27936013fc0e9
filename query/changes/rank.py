"""Whether a change is of low rank, as a merged LoRA leaves it (arXiv 2106.09685), told from blocks of sampled cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from provenance.schemas.sampling import sequence

Array = NDArray[np.float64]
Cells = NDArray[np.int64]

ROUNDING = 2.0**-8
"""Largest relative error of the difference of two weights in bfloat16, of each."""

ABOVE = 3.0
"""How far a singular value must be above what rounding alone gives."""

MIN_LAYERS = 2
LOW = 0.5
"""A rank is called low up to this share of what a block of cells could show."""


def low_rank(before: Array, after: Array, layers: Cells, positions: Cells) -> tuple[int | None, int | None]:
    """The rank of a change, and the largest rank that its cells could show.

    Args:
        before: `[n]` weights of one role in the parent.
        after: `[n]` in the child.
        layers: `[n]` the layer of each.
        positions: `[n]` in the sampling sequence.

    Returns:
        the median over the layers of the numerical rank of the largest whole block of cells; null where it is not low,
        or nothing changed. The second is null where no layer has a block.
    """
    ranks, limits = [], []
    for layer in np.unique(layers):
        here = layers == layer
        moved = after[here] - before[here]
        if not moved.any():
            continue
        block, noise = _block(moved, np.abs(before[here]) + np.abs(after[here]), positions[here])
        limit = min(block.shape, default=0)
        if limit < MIN_LAYERS:
            continue
        values = np.linalg.svd(block, compute_uv=False)
        ranks.append(int((values > ABOVE * noise).sum()))
        limits.append(limit)
    if len(ranks) < MIN_LAYERS:
        return None, None
    rank, limit = int(np.median(ranks)), int(np.median(limits))
    return (rank if 0 < rank <= LOW * limit else None), limit


def _block(
    moved: NDArray[np.float64], size: NDArray[np.float64], position: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """The largest block of rows and columns of which every cell was sampled, and the length of its rounding errors.

    Every 25 cells of the sequence are a block of 5 by 5 with one cell of every tile. The blocks of all passes make one
    of 20 by 20, which smaller matrices and short samples have in part.
    """
    cells = sequence()[position]
    rows, row = np.unique(cells[:, 1], return_inverse=True)
    columns, column = np.unique(cells[:, 2], return_inverse=True)
    table, present = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)), np.bool_)
    rounding = np.zeros_like(table)
    table[row, column], present[row, column], rounding[row, column] = moved, True, ROUNDING * size / np.sqrt(12)
    while not present.all():
        # The emptiest row or column goes.
        by_row, by_column = present.mean(axis=1), present.mean(axis=0)
        if by_row.min() <= by_column.min():
            keep = np.arange(len(by_row)) != np.argmin(by_row)
            table, present, rounding = table[keep], present[keep], rounding[keep]
        else:
            keep = np.arange(len(by_column)) != np.argmin(by_column)
            table, present, rounding = table[:, keep], present[:, keep], rounding[:, keep]
    # The largest singular value of independent errors is near (sqrt(rows) + sqrt(columns)) times their spread.
    spread = float(np.sqrt(np.mean(rounding**2))) if rounding.size else 0.0
    return table, spread * float(sum(np.sqrt(side) for side in table.shape))
