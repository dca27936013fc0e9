"""Alignment of two checkpoints: which layers correspond, and how closely their weights agree."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.grid import Grid, channels, common_columns, group_sums, matrices, tiles, units
from provenance.query.statistics.significance import MIN_BLOCKS, RESOLUTION, block_t, student_log10_p

COARSEST, FLOOR = 1.05 * 2.0**-4, 1e-5
"""Largest relative error of 8-bit floats with three bits of mantissa (E4M3), and their smallest step by the largest."""

_LAYER_Z = 6.0
"""Two layers count as corresponding if their block statistic exceeds this."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of the weights of two checkpoints over a set of layer pairs.

    Attributes:
        correlation: pooled Pearson correlation of cells centred and scaled per matrix.
        n: number of cells compared.
        log10_p: log10 of the largest of three p-values, which group the cells by tile, by residual channel and by inner
            unit. The cells of unrelated models may depend on each other, if rows or columns have different means or
            layers are tied. One of the groupings then contains the dependence within its groups, so that its p-value
            is not small.
        t: the statistic of the tiles; 0, like `log10_p`, if one of the groupings has fewer than `MIN_BLOCKS` groups.
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
    x, y = a.standard[np.ix_(rows_a, in_a)] * both, b.standard[np.ix_(rows_b, in_b)] * both
    product = x * y
    by_tile = tiles(keys)
    t, blocks = block_t(group_sums(product, by_tile).ravel(), group_sums(both, by_tile).ravel())
    tests = [(t, blocks)]
    sums = [total.sum(axis=0, keepdims=True) for total in (product, x * x, y * y)]
    for groups in (channels(keys), units(keys)):
        xy, xx, yy = (group_sums(total, groups)[0] for total in sums)
        # The correlation of each group: channels differ in scale by orders of magnitude, and none must dominate.
        tests.append(block_t(xy, xx * yy))
    # Cells scaled by all of a matrix may correlate by more than 1 over the part that both have.
    correlation = min(max(float(product.sum() / n), -1.0), 1.0)
    if min(groups for _, groups in tests) < MIN_BLOCKS:
        # Too few degrees of freedom: no p-value.
        return Agreement(correlation, n, 0.0, 0.0)
    return Agreement(correlation, n, max(float(student_log10_p(t, groups - 1)) for t, groups in tests), t)


@dataclass(frozen=True)
class LayerBlocks:
    """Block statistics of every pair of layers: sums of `z`, of `z²`, and the number of tiles, each `[La, Lb]`."""

    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: NDArray[np.float64]

    @property
    def z(self) -> NDArray[np.float64]:
        """The z statistic of every pair of layers."""
        return self.total / np.sqrt(np.maximum(self.count, 1))


def layer_blocks(a: Grid, b: Grid) -> LayerBlocks:
    """Compare every layer of `a` with every layer of `b`, tile by tile."""
    keys, in_a, in_b = common_columns(a, b)
    shape = (len(a.layers), len(b.layers))
    total, squares, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    by_tile = tiles(keys)
    order = np.argsort(by_tile, kind="stable")
    standard_a, standard_b = a.standard[:, in_a[order]], b.standard[:, in_b[order]]
    mask_a, mask_b = a.mask[:, in_a[order]].astype(np.float64), b.mask[:, in_b[order]].astype(np.float64)
    starts = np.flatnonzero(np.diff(by_tile[order], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=False):
        cells = mask_a[:, start:stop] @ mask_b[:, start:stop].T
        z = standard_a[:, start:stop] @ standard_b[:, start:stop].T / np.sqrt(np.maximum(cells, 1))
        total += z
        squares += z * z
        count += cells > 0
    return LayerBlocks(total, squares, count)


@dataclass(frozen=True)
class Segment:
    """A run of consecutive layers of one checkpoint that agrees with a run of another.

    `log10_p` is corrected for `tried`, the number of runs tested.
    """

    rows_a: NDArray[np.int64]
    rows_b: NDArray[np.int64]
    log10_p: float
    tried: int


def best_segment(blocks: LayerBlocks) -> Segment | None:
    """The run of layer pairs (any start, any shift, any length) with the smallest p-value, corrected for the search.

    Runs are ranked by the normal deviate equivalent to their t (Wallace 1959, eq. 2.3: accurate to a few thousandths);
    the p-value is computed only for the best one. Null if no run agrees.
    """
    rows, columns = blocks.total.shape
    if rows == 0 or columns == 0:
        return None
    best, tried = (0.0, 0, 0, 0), 0
    for shift in range(-(rows - 1), columns):
        deviates = _run_deviates(*(np.diagonal(x, shift) for x in (blocks.total, blocks.squares, blocks.count)))
        tried += len(deviates) * (len(deviates) + 1) // 2
        start, stop = divmod(int(np.argmax(deviates)), len(deviates))
        best = max(best, (float(deviates[start, stop]), shift, start, stop))
    deviate, shift, start, stop = best
    if deviate == 0:
        return None
    run = np.arange(start, stop + 1)
    rows_a, rows_b = run + max(0, -shift), run + max(0, shift)
    t, n = _run_t(*(x[rows_a, rows_b].sum() for x in (blocks.total, blocks.squares, blocks.count)))
    log10_p = float(student_log10_p(t, n - 1)) + math.log10(tried)
    return Segment(rows_a, rows_b, min(0.0, log10_p), tried)


def matching_segment(a: Grid, b: Grid) -> Segment | None:
    """The best run of two checkpoints: selected by tiles, tested by `agreement`, corrected for every run tried."""
    best = best_segment(layer_blocks(a, b))
    if best is None:
        return None
    log10_p = agreement(a, b, best.rows_a, best.rows_b).log10_p
    return replace(best, log10_p=min(0.0, log10_p + math.log10(best.tried)))


def _run_deviates(
    total: NDArray[np.float64], squares: NDArray[np.float64], count: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Normal deviate of every run `[start, stop]` of one diagonal.

    It is 0 for backward runs, short runs and negative agreement.
    """

    def runs(x: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.concatenate([[0.0], np.cumsum(x)])
        out: NDArray[np.float64] = sums[None, 1:] - sums[:-1, None]
        return out

    n = runs(count)
    # Backward runs have negative counts.
    usable = n >= MIN_BLOCKS
    t, n = _run_t(runs(total), runs(squares), np.where(usable, n, MIN_BLOCKS))
    df = n - 1
    deviate = (8 * df + 1) / (8 * df + 3) * np.sqrt(df * np.log1p(t * t / df))
    return np.where(usable & (t > 0), deviate, 0.0)


def _run_t(total: Any, squares: Any, n: Any) -> tuple[Any, Any]:
    """Student's t of runs of blocks, computed from their sums; equal to `significance.block_t` of the blocks."""
    mean = total / n
    variance = np.maximum(squares / n - mean**2, 0) * n / (n - 1)
    return mean / np.maximum(np.sqrt(variance / n), RESOLUTION * np.abs(mean) + np.finfo(float).tiny), n


def layer_map(a: Grid, b: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of `a` and the corresponding rows of `b`.

    With equal depths, layers correspond by position. Otherwise each layer of the deeper checkpoint corresponds to the
    layer of the other with the best agreement, if that exceeds `_LAYER_Z`.
    """
    if len(a.layers) == len(b.layers):
        rows = np.arange(len(a.layers))
        return rows, rows
    z = layer_blocks(a, b).z
    if z.size == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if len(a.layers) > len(b.layers):
        best = np.argmax(z, axis=1)
        keep = np.flatnonzero(z.max(axis=1) > _LAYER_Z)
        return keep, best[keep]
    best = np.argmax(z, axis=0)
    keep = np.flatnonzero(z.max(axis=0) > _LAYER_Z)
    return best[keep], keep


@dataclass(frozen=True)
class Slopes:
    """Regression of the weights of two checkpoints on each other, matrix by matrix.

    Attributes:
        b_on_a: regression slope cov / var(a), averaged over matrices with weights by their agreement. It is 1 if `b` is
            `a` plus a change that is independent of `a`, as after training from `a`.
        a_on_b: the slope in the other direction.
        zeros_a: fraction of exact zeros among the cells of `a`; `zeros_b` likewise.
        equal: every compared cell is equal.
        change_kurtosis: kurtosis of the change scaled per matrix (1.8 for rounding, 3 for noise, more for training).
        unbounded: share of the changed cells that changed by more than the rounding of 8-bit floats, relative to
            themselves.
    """

    b_on_a: float
    a_on_b: float
    zeros_a: float
    zeros_b: float
    equal: bool
    change_kurtosis: float
    unbounded: float


def slopes(a: Grid, b: Grid, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> Slopes | None:
    """Regress the corresponding matrices of two checkpoints on each other; null if no layers correspond."""
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
    step = np.abs(weight_b - weight_a)
    bound = COARSEST * np.maximum(np.abs(weight_a), np.abs(weight_b))
    bound += FLOOR * np.maximum(np.abs(weight_a).max(axis=1), np.abs(weight_b).max(axis=1))[:, None]
    return Slopes(
        b_on_a=float(np.average(cov / va, weights=weight)),
        a_on_b=float(np.average(cov / vb, weights=weight)),
        zeros_a=float((weight_a[both] == 0).mean()),
        zeros_b=float((weight_b[both] == 0).mean()),
        equal=bool(np.array_equal(weight_a, weight_b)),
        change_kurtosis=float(np.median(fourth[moved] * n[moved] / vc[moved] ** 2)) if moved.any() else math.nan,
        unbounded=float(np.mean((step > bound)[step > 0])) if (step > 0).any() else 0.0,
    )
