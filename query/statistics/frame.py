"""Several checkpoints at corresponding cells: what each pair of a family shares, matrix by matrix, in one pass.

All members are put on the grid of one of them, so that differences between any two of them, and inner products of such
differences, are taken over the same cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.alignment import layer_map
from provenance.query.statistics.grid import Grid, matrices

MIN_CELLS = 3
"""A matrix of which two members share fewer cells says nothing about them."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """The weights of `n` members at the cells of one grid.

    Attributes:
        weights: `[n, C]`, scaled by the spread of the matrix in the grid's own member; zero where `mask` is not set.
        mask: `[n, C]` which cells a member has.
        owner: `[C]` rising, the matrix that each cell belongs to.
        layer: `[G]` the layer of each matrix in the grid, counted from 0.
        role: `[G]` its role code.
        place: `[n, L]` the member's own layer at each layer of the grid, -1 where it has none.
    """

    weights: Array
    mask: NDArray[np.bool_]
    owner: NDArray[np.int64]
    layer: NDArray[np.int64]
    role: NDArray[np.int64]
    place: NDArray[np.int64]

    @cached_property
    def shared(self) -> Shared:
        """Second moments of every pair of members in every matrix."""
        return _shared(self)

    @cached_property
    def equal(self) -> NDArray[np.bool_]:
        """`[n, n]`: every cell that both have is equal, and both have the same cells."""
        n = len(self.weights)
        equal = np.eye(n, dtype=np.bool_)
        for i in range(n):
            for j in range(i):
                equal[i, j] = equal[j, i] = np.array_equal(self.mask[i], self.mask[j]) and np.array_equal(
                    self.weights[i], self.weights[j]
                )
        return equal

    @cached_property
    def zeros(self) -> Array:
        """`[n, n]` share of exact zeros of the first member among the cells that both have."""
        zero = ((self.weights == 0) & self.mask).astype(np.float64)
        shares: Array = zero @ self.mask.astype(np.float64).T / np.maximum(self.cells, 1)
        return shares

    @cached_property
    def cells(self) -> Array:
        """`[n, n]` number of cells that two members have in common."""
        mask = self.mask.astype(np.float64)
        cells: Array = mask @ mask.T
        return cells

    @cached_property
    def squared(self) -> Array:
        """`[n, n]` mean squared difference of two members over the cells that both have."""
        mask = self.mask.astype(np.float64)
        energy = (self.weights**2) @ mask.T
        total = energy + energy.T - 2 * self.weights @ self.weights.T
        squared: Array = np.maximum(total, 0) / np.maximum(self.cells, 1)
        squared[self.equal] = 0.0
        return squared

    def carried(self, reference: int) -> Carried:
        """How much of the change from a reference to each member is found again in each other one.

        With u = descendant - reference and v = through - reference it is the slope of u on v: near 1 where the
        descendant comes from `through`, near 0 where it started from the reference itself.

        Where `through` does not differ from the reference, the slope is 0 and its error infinite.
        """
        change = self.squared[reference]
        inner = (change[:, None] + change[None, :] - self.squared) / 2
        energy = np.broadcast_to(change, inner.shape)
        slope = np.divide(inner, energy, out=np.zeros_like(inner), where=energy > 0)
        rest = np.maximum(change[:, None] - slope * inner, 0)
        number = np.maximum(np.minimum(self.cells, self.cells[reference]), 2) - 1
        error = np.sqrt(np.divide(rest, energy * number, out=np.full_like(inner, np.inf), where=energy > 0))
        size = np.sqrt(np.outer(change, change))
        return Carried(slope, error, np.divide(inner, size, out=np.zeros_like(inner), where=size > 0))


@dataclass(frozen=True)
class Carried:
    """Regression of each member's change on each other one's, seen from one reference.

    Attributes:
        slope: `[descendant, through]`.
        error: its standard error.
        correlation: of the two changes.
    """

    slope: Array
    error: Array
    correlation: Array

    def of(self, members: Sequence[int]) -> Carried:
        """The same of some members."""
        own = np.ix_(members, members)
        return Carried(self.slope[own], self.error[own], self.correlation[own])


@dataclass(frozen=True)
class Shared:
    """Second moments of pairs of members over the cells that both have.

    Attributes:
        count: `[n, n, G]` cells of a matrix that both have.
        variance: `[n, n, G]` variance of the first member over these cells.
        covariance: `[n, n, G]`.
    """

    count: Array
    variance: Array
    covariance: Array

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """`[n, n, G]` matrices that vary in both members."""
        return (self.count >= MIN_CELLS) & (self.variance > 0) & (self.variance.transpose(1, 0, 2) > 0)

    @cached_property
    def correlation(self) -> Array:
        """`[n, n]` correlation of the cells, averaged over the matrices by their number of cells."""
        scale = np.sqrt(self.variance * self.variance.transpose(1, 0, 2))
        return self._mean(np.divide(self.covariance, scale, out=np.zeros_like(scale), where=self.usable), self.count)

    @cached_property
    def distance(self) -> Array:
        """`[n, n]` mean over the matrices of the energy of the difference, in units of the mean variance of the two.

        Independent changes add up: along a line of descent distances are additive.
        """
        total = self.variance + self.variance.transpose(1, 0, 2)
        change = np.maximum(total - 2 * self.covariance, 0)
        return self._mean(np.divide(2 * change, total, out=np.zeros_like(total), where=self.usable))

    @cached_property
    def slope(self) -> Array:
        """`[n, n]` regression slope of the second member on the first, averaged over the matrices by r² times cells."""
        back = self.variance.transpose(1, 0, 2)
        slope = np.divide(self.covariance, self.variance, out=np.zeros_like(back), where=self.usable)
        reverse = np.divide(self.covariance, back, out=np.zeros_like(back), where=self.usable)
        return self._mean(slope, slope.clip(0) * reverse.clip(0) * self.count)

    @cached_property
    def asymmetry(self) -> tuple[Array, Array]:
        """How much steeper the second member's slope on the first is than the reverse: mean over the matrices, and t.

        Training adds to its start a change that hardly depends on it, so the slope of the child on the parent stays
        near 1 while that of the parent on the child falls.

        Returns:
            `[n, n]` mean and `[n, n]` Student's t over the matrices; 0 where fewer than `MIN_CELLS` matrices vary.
        """
        back = self.variance.transpose(1, 0, 2)
        gap = np.divide(self.covariance, self.variance, out=np.zeros_like(back), where=self.usable) - np.divide(
            self.covariance, back, out=np.zeros_like(back), where=self.usable
        )
        groups = self.usable.sum(axis=2)
        mean = self._mean(gap)
        spread = np.sqrt(self._mean((gap - mean[:, :, None]) ** 2) / np.maximum(groups - 1, 1))
        enough = groups >= MIN_CELLS
        t = np.divide(mean, spread, out=np.zeros_like(mean), where=enough & (spread > 0))
        return mean, t

    def _mean(self, values: Array, weight: Array | None = None) -> Array:
        """Mean over the usable matrices."""
        use = self.usable * (1.0 if weight is None else weight)
        total = use.sum(axis=2)
        mean: Array = np.divide((values * use).sum(axis=2), total, out=np.zeros(total.shape), where=total > 0)
        return mean


def frame_of(grids: Sequence[Grid]) -> Frame:
    """Put several checkpoints on the grid of one of them: of the commonest depth, the deeper of two such depths.

    A stack of strange layers would hide what all others have in theirs.
    """
    depths = Counter(len(grid.layers) for grid in grids)
    base = max(grids, key=lambda grid: (depths[len(grid.layers)], grid.weights.shape))
    matrix = np.arange(len(base.layers))[:, None] * 256 + matrices(base.columns)[None, :]
    keys, owner = np.unique(matrix.ravel(), return_inverse=True)
    count = np.bincount(owner, base.mask.ravel())
    square = np.bincount(owner, (base.weights**2).ravel())
    mean = np.bincount(owner, base.weights.ravel()) / np.maximum(count, 1)
    spread = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0))
    scale = np.where(spread > 0, spread, 1.0)[owner].reshape(base.weights.shape)
    weights = np.zeros((len(grids), *base.weights.shape))
    mask = np.zeros(weights.shape, np.bool_)
    place = np.full((len(grids), len(base.layers)), -1, np.int64)
    for i, grid in enumerate(grids):
        rows, own = (np.arange(len(base.layers)),) * 2 if grid is base else layer_map(base, grid)
        place[i, rows] = own
        _, to, of = np.intersect1d(base.columns, grid.columns, assume_unique=True, return_indices=True)
        mask[i][np.ix_(rows, to)] = grid.mask[np.ix_(own, of)]
        weights[i][np.ix_(rows, to)] = grid.weights[np.ix_(own, of)] / scale[np.ix_(rows, to)]
    mask &= base.mask
    flat = (len(grids), -1)
    flat = (len(grids), -1)
    weights = np.where(mask, weights, 0.0).reshape(flat)
    return Frame(weights, mask.reshape(flat), owner, keys // 256, keys % 256, place)


def _shared(frame: Frame) -> Shared:
    n, groups = len(frame.weights), int(frame.owner[-1]) + 1 if len(frame.owner) else 0
    count, variance, covariance = (np.zeros((n, n, groups)) for _ in range(3))
    order = np.argsort(frame.owner, kind="stable")
    ends = np.cumsum(np.bincount(frame.owner, minlength=groups)) if groups else np.zeros(0, np.int64)
    start = 0
    for group, stop in enumerate(map(int, ends)):
        cells = order[start:stop]
        start = stop
        own, here = frame.weights[:, cells], frame.mask[:, cells].astype(np.float64)
        number = here @ here.T
        safe = np.maximum(number, 1)
        mean = own @ here.T / safe  # [i, j]: mean of i over the cells that j has too
        count[:, :, group] = number
        variance[:, :, group] = np.maximum((own**2) @ here.T / safe - mean**2, 0)
        covariance[:, :, group] = own @ own.T / safe - mean * mean.T
    # What rounding leaves of a constant is no variance.
    variance[variance < 1e-12] = 0
    return Shared(count, variance, covariance)
