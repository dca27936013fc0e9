"""Moments of a tensor in one pass, and the standard error of its standard deviation if only bands were read.

Raw power sums suffer from cancellation: in float64, a mean of 10,000 standard deviations destroys the kurtosis. So
elements are processed in groups, pieces of 64 Ki elements or the rows of a band, and each group is centred on its own
mean in float64. The central moments of all groups are then moved to the common mean, which is exact (the update of
Pébay, Sandia report SAND2008-6212, 2008, for any number of groups at once): with `d` a group's mean minus the common
mean,

    M2 = sum m2 + n d**2        M3 = sum m3 + 3 d m2 + n d**3        M4 = sum m4 + 4 d m3 + 6 d**2 m2 + n d**4

Five numbers per group are kept, and few numpy calls are made per tensor: each call releases and takes the interpreter
lock, for which the other workers of the crawl wait.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from provenance.schemas.tensors import TensorStatistics

PIECE = 65_536
"""Elements processed at a time: their float64 values fit the cache."""

_WIDEST = 200
"""Exponent of two within which fourth powers of float64 deviations neither overflow nor underflow.

It includes all float32 values, denormals too.
"""

MIN_GROUPS = 3

_kept = threading.local()


class Moments:
    """Count, mean, central moments up to the fourth, minimum and maximum of everything given to `update`.

    NaN and infinities are only counted.
    """

    __slots__ = ("_exponent", "_groups", "_high", "_low", "_n_read")

    def __init__(self) -> None:
        self._n_read = 0
        self._low, self._high = math.inf, -math.inf
        # `[5, groups]` each: count, mean, and sums of the 2nd, 3rd and 4th powers of deviations from that mean, in
        # units of 2**_exponent.
        self._groups: list[NDArray[np.float64]] = []
        self._exponent = 0

    def update(self, chunk: NDArray[np.floating]) -> None:
        """Add a chunk of any shape and float dtype, in pieces; an empty chunk changes nothing."""
        flat = chunk.reshape(-1)
        for start in range(0, flat.size, PIECE):
            self._take(flat[None, start : start + PIECE])

    def update_rows(self, rows: NDArray[np.floating]) -> None:
        """Add `[rows, columns]`, each row as a separate group, so that `std_error` can leave out whole rows."""
        if rows.size:
            step = max(1, PIECE // rows.shape[1])
            for start in range(0, len(rows), step):
                self._take(rows[start : start + step])

    def result(self, std_error: float | None = 0.0) -> TensorStatistics:
        """The statistics of all elements so far.

        Args:
            std_error: standard error of `std`, from the method of that name if only a part was read.

        Returns:
            null statistics if there was no finite element; null skewness and kurtosis for a constant tensor.
        """
        n, mean, m2, m3, m4 = _merged(self._table())
        n_nonfinite = self._n_read - int(n)
        if n == 0:
            return TensorStatistics(n_read=self._n_read, n_nonfinite=n_nonfinite)
        variance = m2 / n
        constant = self._low == self._high or variance == 0.0
        return TensorStatistics(
            n_read=self._n_read,
            # Rounding must not move the mean past the extremes, nor `std` past its bound, the largest magnitude.
            mean=min(max(mean * 2.0 * self._half_unit, self._low), self._high),
            std=0.0 if constant else min(math.sqrt(variance) * 2.0 * self._half_unit, self._magnitude),
            std_error=std_error,
            skewness=None if constant else m3 / n / variance**1.5,
            kurtosis=None if constant else m4 / n / variance**2,
            min=self._low,
            max=self._high,
            n_nonfinite=n_nonfinite,
        )

    def std_error(self, heights: Sequence[int], n_elements: int) -> float | None:
        """Standard error of the standard deviation of a tensor of which only some bands of rows were read.

        The delete-one-group jackknife (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, equation 11.5):
        with `s_j` the standard deviation of all elements read except group `j` of `g`, and `f` the fraction read,

            std_error**2 = (1 - f) * (g - 1) / g * sum_j (s_j - mean(s))**2

        Elements of one row are correlated, so whole groups are left out: the bands if there are three or more, else
        their rows. `1 - f` is the correction for a finite population.

        Args:
            heights: rows in each band, in the order in which `update_rows` received them.
            n_elements: elements of the whole tensor.

        Returns:
            0 if everything was read; None if there are fewer than three groups with finite elements.
        """
        share = self._n_read / n_elements if n_elements else 1.0
        if share >= 1.0:
            return 0.0
        n, mean, m2 = self._table()[:3]
        d = mean - (n * mean).sum() / max(float(n.sum()), 1.0)
        sums = np.stack([n, n * d, m2 + n * d**2])  # sums about the common mean can be subtracted safely
        starts = np.cumsum([0, *heights])[:-1]
        bands = np.add.reduceat(sums, starts[np.array(heights, dtype=bool)], axis=1)
        for groups in (bands, sums):
            groups = groups[:, groups[0] > 0]
            g = groups.shape[1]
            if g >= MIN_GROUPS:
                n, first, second = groups.sum(axis=1, keepdims=True) - groups
                stds = np.sqrt(np.maximum(second / n - (first / n) ** 2, 0.0))
                spread = float(((stds - stds.mean()) ** 2).sum())
                return math.sqrt((1.0 - share) * (g - 1) / g * spread) * 2.0 * self._half_unit
        return None

    @property
    def _magnitude(self) -> float:
        return max(abs(self._low), abs(self._high))

    @property
    def _half_unit(self) -> float:
        """Half the unit of the groups: 2**1024 is not representable in float64."""
        return 2.0 ** (self._exponent - 1)

    def _table(self) -> NDArray[np.float64]:
        if len(self._groups) != 1:
            self._groups = [np.concatenate([np.empty((5, 0)), *self._groups], axis=1)]
        return self._groups[0]

    def _take(self, rows: NDArray[np.floating]) -> None:
        """Add a few rows, each as a separate group."""
        self._n_read += rows.size
        low, high = float(rows.min()), float(rows.max())
        holes: NDArray[np.bool_] | None = None
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN spreads to both
            holes = ~np.isfinite(rows)
            if holes.all():
                self._groups.append(np.zeros((5, len(rows))))
                return
            finite = rows[~holes]
            low, high = float(finite.min()), float(finite.max())
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._rescale()
        self._groups.append(_central(rows, holes, self._exponent))

    def _rescale(self) -> None:
        """Choose the unit by the largest magnitude so far: 1, unless float64 values leave the safe range."""
        exponent = math.frexp(self._magnitude)[1]
        if abs(exponent) <= _WIDEST:
            exponent = 0
        if shift := self._exponent - exponent:
            # Magnitudes only grow, so the moments shrink, or are zero: this never overflows.
            self._groups = [np.ldexp(self._table(), shift * np.arange(5)[:, None])]
            self._exponent = exponent


def _central(rows: NDArray[np.floating], holes: NDArray[np.bool_] | None, exponent: int) -> NDArray[np.float64]:
    """`[5, rows]`: of each row the count, mean, and sums of the 2nd, 3rd and 4th powers of deviations from the mean."""
    moments = np.zeros((5, len(rows)))
    n, mean, m2, m3, m4 = moments
    values, squares = _workspace(rows.shape)
    n += rows.shape[1]
    if holes is not None:
        n -= holes.sum(axis=1)
        rows = np.where(holes, rows.dtype.type(0), rows)  # before the cast, which warns about a signalling NaN
    np.copyto(values, rows)
    if exponent:
        np.ldexp(values, -exponent, out=values)
    np.divide(values.sum(axis=1), n, out=mean, where=n > 0)
    values -= mean[:, None]
    if holes is not None:
        values[holes] = 0.0
    np.multiply(values, values, out=squares).sum(axis=1, out=m2)
    # No dot products: BLAS splits one of this length over threads, and waiting for them takes ten times as long.
    np.multiply(values, squares, out=values).sum(axis=1, out=m3)
    np.multiply(squares, squares, out=squares).sum(axis=1, out=m4)
    return moments


def _workspace(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A `[2, *shape]` buffer, kept per thread: allocating memory costs more than the computation."""
    n = math.prod(shape)
    if n > PIECE:  # a row longer than a piece
        return np.empty((2, *shape))
    if not hasattr(_kept, "workspace"):
        _kept.workspace = np.empty((2, PIECE))
    workspace: NDArray[np.float64] = _kept.workspace
    return workspace[:, :n].reshape(2, *shape)


def _merged(groups: NDArray[np.float64]) -> list[float]:
    """Count, mean and central moments of all groups combined."""
    n, mean, m2, m3, m4 = groups
    total = n.sum()
    common = (n * mean).sum() / total if total else 0.0
    d = mean - common
    between = n * d * d
    return [
        float(total),
        float(common),
        float((m2 + between).sum()),
        float((m3 + d * (3.0 * m2 + between)).sum()),
        float((m4 + d * (4.0 * m3 + d * (6.0 * m2 + between))).sum()),
    ]
