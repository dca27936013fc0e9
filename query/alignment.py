"""Laying two checkpoints on each other: which layers correspond, and how far their weights agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from query.grid import Grid, channels, common_columns, group_sums, matrices, tiles
from query.significance import MIN_BLOCKS, block_t, student_log10_p

_LAYER_Z = 6.0
"""A pair of layers is taken for the same layer when its block statistic exceeds this."""


@dataclass(frozen=True)
class Agreement:
    """How far the weights of two checkpoints agree over a set of layer pairs.

    Attributes:
        correlation: pooled Pearson correlation of cells centred and scaled per matrix.
        n: cells compared.
        log10_p: the larger of two p-values that group the cells differently, by tile and by residual channel:
            dependence inside either grouping cannot make it small.
        t: the tiles' statistic.
    """

    correlation: float
    n: int
    log10_p: float
    t: float


NOTHING = Agreement(0.0, 0, 0.0, 0.0)


def agreement(a: Grid, b: Grid, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> Agreement:
    """Agreement of `a` and `b` over the layer pairs `rows_a[i] ~ rows_b[i]` (rows of the grids)."""
    keys, in_a, in_b = common_columns(a, b)
    if len(keys) == 0 or len(rows_a) == 0:
        return NOTHING
    both = (a.mask[np.ix_(rows_a, in_a)] & b.mask[np.ix_(rows_b, in_b)]).astype(np.float64)
    n = int(both.sum())
    if n == 0:
        return NOTHING
    product = a.standard[np.ix_(rows_a, in_a)] * b.standard[np.ix_(rows_b, in_b)] * both
    by_tile = tiles(keys)
    t, blocks = block_t(group_sums(product, by_tile).ravel(), group_sums(both, by_tile).ravel())
    by_channel = channels(keys)
    t_channel, n_channels = block_t(
        group_sums(product, by_channel).sum(axis=0), group_sums(both, by_channel).sum(axis=0)
    )
    # Few channels mean few degrees of freedom; below the minimum the line stays silent.
    log10_p = 0.0
    if blocks >= MIN_BLOCKS and n_channels >= MIN_BLOCKS:
        log10_p = float(max(student_log10_p(t, blocks - 1), student_log10_p(t_channel, n_channels - 1)))
    return Agreement(float(product.sum() / n), n, log10_p, t)


@dataclass(frozen=True)
class LayerBlocks:
    """Block statistics of every pair of layers: sums of `z`, of `z²`, and the number of tiles, each `[La, Lb]`."""

    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: NDArray[np.float64]

    @property
    def z(self) -> NDArray[np.float64]:
        """Plain z of every pair of layers."""
        return self.total / np.sqrt(np.maximum(self.count, 1))


def layer_blocks(a: Grid, b: Grid) -> LayerBlocks:
    """Compare every layer of `a` with every layer of `b`, tile by tile."""
    keys, in_a, in_b = common_columns(a, b)
    shape = (len(a.layers), len(b.layers))
    total, squares, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    standard_a, standard_b = a.standard[:, in_a], b.standard[:, in_b]
    mask_a, mask_b = a.mask[:, in_a].astype(np.float64), b.mask[:, in_b].astype(np.float64)
    by_tile = tiles(keys)
    for tile in np.unique(by_tile):
        at = np.flatnonzero(by_tile == tile)
        cells = mask_a[:, at] @ mask_b[:, at].T
        z = standard_a[:, at] @ standard_b[:, at].T / np.sqrt(np.maximum(cells, 1))
        total += z
        squares += z * z
        count += cells > 0
    return LayerBlocks(total, squares, count)


@dataclass(frozen=True)
class Segment:
    """A run of consecutive layers of one checkpoint that agrees with a run of another.

    `log10_p` is corrected for the number of runs that were tried.
    """

    rows_a: NDArray[np.int64]
    rows_b: NDArray[np.int64]
    log10_p: float
    tried: int


def best_segment(blocks: LayerBlocks) -> Segment | None:
    """The run of layer pairs (any start, any shift, any length) with the smallest p-value, corrected for the search."""
    rows, columns = blocks.total.shape
    if rows == 0 or columns == 0:
        return None
    best: tuple[float, int, int, int] | None = None
    tried = 0
    for shift in range(-(rows - 1), columns):
        total, squares, count = (np.diagonal(x, shift) for x in (blocks.total, blocks.squares, blocks.count))
        log10_p = _run_p(total, squares, count)
        tried += len(total) * (len(total) + 1) // 2
        where = int(np.argmin(log10_p))
        start, stop = divmod(where, log10_p.shape[1])
        value = float(log10_p[start, stop])
        if best is None or value < best[0]:
            best = (value, shift, start, stop)
    assert best is not None  # there is at least one diagonal
    value, shift, start, stop = best
    run = np.arange(start, stop + 1)
    return Segment(run + max(0, -shift), run + max(0, shift), min(0.0, value + math.log10(tried)), tried)


def _run_p(total: NDArray[np.float64], squares: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """log10 p of every run `[start, stop]` of one diagonal; 0 for backward runs, short ones and negative agreement."""

    def runs(x: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.concatenate([[0.0], np.cumsum(x)])
        out: NDArray[np.float64] = sums[None, 1:] - sums[:-1, None]
        return out

    n, s, q = runs(count), runs(total), runs(squares)
    usable = (n >= MIN_BLOCKS) & (np.arange(len(n))[:, None] <= np.arange(len(n))[None, :])
    n = np.where(usable, n, MIN_BLOCKS)
    variance = np.maximum(q / n - (s / n) ** 2, 0) * n / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(variance > 0, s / n / np.sqrt(variance / n), 0.0)
    return np.where(usable & (t > 0), student_log10_p(np.nan_to_num(t), n - 1), 0.0)


def layer_map(a: Grid, b: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of `a` and the rows of `b` they correspond to.

    Equal depths correspond by position. Otherwise each layer of the deeper checkpoint goes to the layer of the other
    that it agrees with best, if it clearly does.
    """
    if len(a.layers) == len(b.layers):
        rows = np.arange(len(a.layers))
        return rows, rows
    z = layer_blocks(a, b).z
    if z.size == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if len(a.layers) > len(b.layers):
        found = np.argmax(z, axis=1)
        keep = np.flatnonzero(z.max(axis=1) > _LAYER_Z)
        return keep, found[keep]
    found = np.argmax(z, axis=0)
    keep = np.flatnonzero(z.max(axis=0) > _LAYER_Z)
    return found[keep], keep


@dataclass(frozen=True)
class Slopes:
    """How the weights of two checkpoints are scaled against each other, matrix by matrix.

    Attributes:
        b_on_a: regression slope cov / var(a), averaged over matrices by how well they agree. 1 when `b` is `a` plus a
            change that does not depend on it: what training does to its starting point.
        a_on_b: the same the other way.
        nearer_a: share of matrices whose slope on `a` is nearer to 1 than the slope on `b`.
        matrices: matrices compared.
        zeros_a: share of exact zeros among the cells of `a`; zeros_b likewise.
        equal: every compared cell is equal.
        change_kurtosis: kurtosis of the change scaled per matrix (1.8 for rounding, 3 for noise, more for training).
    """

    b_on_a: float
    a_on_b: float
    nearer_a: float
    matrices: int
    zeros_a: float
    zeros_b: float
    equal: bool
    change_kurtosis: float


def slopes(a: Grid, b: Grid, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> Slopes | None:
    """Regress the corresponding matrices of two checkpoints on each other; null when nothing corresponds."""
    keys, in_a, in_b = common_columns(a, b)
    if len(keys) == 0 or len(rows_a) == 0:
        return None
    both = a.mask[np.ix_(rows_a, in_a)] & b.mask[np.ix_(rows_b, in_b)]
    weight_a, weight_b = a.weights[np.ix_(rows_a, in_a)] * both, b.weights[np.ix_(rows_b, in_b)] * both
    by_matrix = matrices(keys)
    n = group_sums(both.astype(np.float64), by_matrix)
    _, where = np.unique(by_matrix, return_inverse=True)

    def centred(x: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = group_sums(x, by_matrix) / np.maximum(n, 1)
        out: NDArray[np.float64] = (x - mean[:, where]) * both
        return out

    va, vb = group_sums(centred(weight_a) ** 2, by_matrix), group_sums(centred(weight_b) ** 2, by_matrix)
    cov = group_sums(centred(weight_a) * centred(weight_b), by_matrix)
    change = centred(weight_b) - centred(weight_a)
    vc = group_sums(change**2, by_matrix)
    fourth = group_sums(change**4, by_matrix)
    use = (va > 0) & (vb > 0) & (n > 2)
    if not use.any():
        return None
    n, va, vb, cov, vc, fourth = (x[use] for x in (n, va, vb, cov, vc, fourth))
    weight = np.maximum(cov / np.sqrt(va * vb), 0) ** 2 * n
    if weight.sum() == 0:
        return None
    moved = vc > 0
    return Slopes(
        b_on_a=float(np.average(cov / va, weights=weight)),
        a_on_b=float(np.average(cov / vb, weights=weight)),
        nearer_a=float(np.mean(np.abs(cov / va - 1) < np.abs(cov / vb - 1))),
        matrices=len(cov),
        zeros_a=float((weight_a[both] == 0).mean()),
        zeros_b=float((weight_b[both] == 0).mean()),
        equal=bool(np.array_equal(weight_a, weight_b)),
        change_kurtosis=float(np.median(fourth[moved] * n[moved] / vc[moved] ** 2)) if moved.any() else math.nan,
    )
