"""Moments of a tensor in one pass, and how far the standard deviation of a few bands may be off.

Raw power sums lose to cancellation: in float64 a mean of 10,000 standard deviations leaves nothing of the kurtosis.
So each piece of 64 Ki elements, which fits the cache, is centred on its own mean in float64, and the central moments of
the pieces are merged by the exact pairwise update of Pébay (Sandia report SAND2008-6212, 2008; for two moments Chan,
Golub and LeVeque, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.records import TensorStatistics

PIECE = 65_536

_WIDEST = 200
"""Powers of two within which fourth powers of float64 deviations neither overflow nor vanish.

All float32 values lie within, denormals too.
"""

MIN_GROUPS = 3


class Moments:
    """Count, mean, central moments to the fourth, smallest and largest, of everything given to `update`.

    NaN and infinities are counted and left out of all else.
    """

    __slots__ = ("_exponent", "_high", "_low", "_m2", "_m3", "_m4", "_mean", "_n", "_n_read")

    def __init__(self) -> None:
        self._n_read = self._n = 0
        self._low, self._high = math.inf, -math.inf
        # In units of 2**_exponent: the mean, and the sums of the 2nd, 3rd and 4th powers of deviations from it.
        self._exponent = 0
        self._mean = self._m2 = self._m3 = self._m4 = 0.0

    def update(self, chunk: NDArray[np.floating[Any]]) -> None:
        """Take in a chunk of any shape and float dtype; an empty one changes nothing."""
        flat = chunk.reshape(-1)
        deviations, squares = np.empty((2, min(flat.size, PIECE)))
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE]
            self._n_read += piece.size
            low, high = float(piece.min()), float(piece.max())
            if not (math.isfinite(low) and math.isfinite(high)):  # NaN spreads to both
                piece = piece[np.isfinite(piece)]
                if piece.size == 0:
                    continue
                low, high = float(piece.min()), float(piece.max())
            self._low, self._high = min(self._low, low), max(self._high, high)
            self._rescale()
            n = piece.size
            self._merge(n, *self._central(piece, deviations[:n], squares[:n]))

    def result(self, std_error: float | None = 0.0) -> TensorStatistics:
        """The statistics of all elements so far.

        Args:
            std_error: standard error of `std`, from `band_std_error` when not everything was read.

        Returns:
            null statistics when there was no finite element; null skewness and kurtosis for a constant tensor.
        """
        n_nonfinite = self._n_read - self._n
        if self._n == 0:
            return TensorStatistics(n_read=self._n_read, n_nonfinite=n_nonfinite)
        variance = self._m2 / self._n
        constant = self._low == self._high or variance == 0.0
        unit = 2.0 ** (self._exponent - 1)  # 2**1024 is no float64, half of it is
        return TensorStatistics(
            n_read=self._n_read,
            # Rounding must not carry the mean past the extremes, nor `std` past its bound, the largest magnitude.
            mean=min(max(self._mean * 2.0 * unit, self._low), self._high),
            std=0.0 if constant else min(math.sqrt(variance) * 2.0 * unit, self._magnitude),
            std_error=std_error,
            skewness=None if constant else self._m3 / self._n / variance**1.5,
            kurtosis=None if constant else self._m4 / self._n / variance**2,
            min=self._low,
            max=self._high,
            n_nonfinite=n_nonfinite,
        )

    @property
    def _magnitude(self) -> float:
        return max(abs(self._low), abs(self._high))

    def _rescale(self) -> None:
        """Choose the unit by the largest magnitude so far: 1, unless float64 values leave the safe range."""
        exponent = math.frexp(self._magnitude)[1]
        if abs(exponent) <= _WIDEST:
            exponent = 0
        if shift := self._exponent - exponent:
            # Magnitudes only grow, so the moments shrink, or were of zeros: this never overflows.
            self._mean = math.ldexp(self._mean, shift)
            self._m2 = math.ldexp(self._m2, 2 * shift)
            self._m3 = math.ldexp(self._m3, 3 * shift)
            self._m4 = math.ldexp(self._m4, 4 * shift)
            self._exponent = exponent

    def _central(
        self, piece: NDArray[np.floating[Any]], deviations: NDArray[np.float64], squares: NDArray[np.float64]
    ) -> tuple[float, float, float, float]:
        """Mean and sums of powers of deviations of one finite piece; the last two arguments are room to work in."""
        np.copyto(deviations, piece)
        if self._exponent:
            np.ldexp(deviations, -self._exponent, out=deviations)
        mean = float(deviations.sum()) / piece.size
        np.subtract(deviations, mean, out=deviations)
        np.multiply(deviations, deviations, out=squares)
        m2 = float(squares.sum())
        # No dot products: BLAS splits one of this length over threads and loses ten times the work in waiting.
        m3 = float(np.multiply(deviations, squares, out=deviations).sum())
        m4 = float(np.multiply(squares, squares, out=squares).sum())
        return mean, m2, m3, m4

    def _merge(self, n_b: int, mean_b: float, m2_b: float, m3_b: float, m4_b: float) -> None:
        n_a, m2_a, m3_a, m4_a = self._n, self._m2, self._m3, self._m4
        n = n_a + n_b
        delta = mean_b - self._mean
        share_a, share_b = n_a / n, n_b / n
        between = delta**2 * n_a * share_b
        self._n = n
        self._mean += delta * share_b
        self._m2 = m2_a + m2_b + between
        self._m3 = m3_a + m3_b + between * delta * (share_a - share_b) + 3.0 * delta * (share_a * m2_b - share_b * m2_a)
        self._m4 = (
            m4_a
            + m4_b
            + between * delta**2 * (share_a**2 - share_a * share_b + share_b**2)
            + 6.0 * delta**2 * (share_a**2 * m2_b + share_b**2 * m2_a)
            + 4.0 * delta * (share_a * m3_b - share_b * m3_a)
        )


def band_std_error(bands: Sequence[NDArray[np.floating[Any]]], n_elements: int) -> float | None:
    """Standard error of the standard deviation of a tensor of which only some bands were read.

    The delete-one-group jackknife (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, equation 11.5):
    with `s_j` the standard deviation of everything read except group `j` of `g`, and `f` the share that was read,

        std_error**2 = (1 - f) * (g - 1) / g * sum_j (s_j - mean(s))**2

    Elements of one row resemble each other more than elements of two, so groups are left out whole: the bands where
    there are three or more, else their rows. `1 - f` is the correction for a finite population.

    Args:
        bands: the elements of one contiguous run of rows each, `[rows, columns]` or flat.
        n_elements: elements of the whole tensor.

    Returns:
        0 when everything was read; None when there are fewer than three groups with finite elements.
    """
    share = sum(band.size for band in bands) / n_elements if n_elements else 1.0
    if share >= 1.0:
        return 0.0
    groups = _finite(bands)
    if len(groups) < MIN_GROUPS:
        groups = _finite([row for band in bands for row in (band if band.ndim == 2 else [band])])
    g = len(groups)
    if g < MIN_GROUPS:
        return None
    # Between -1 and 1, and about the common mean, squares are safe to add and to take away again.
    scale = max(float(np.abs(group).max()) for group in groups) or 1.0
    groups = [group / scale for group in groups]
    centre = sum(float(group.sum()) for group in groups) / sum(group.size for group in groups)
    sums = np.array([_power_sums(group - centre) for group in groups])
    n, first, second = (sums.sum(axis=0) - sums).T
    stds = np.sqrt(np.maximum(second / n - (first / n) ** 2, 0.0))
    spread = float(((stds - stds.mean()) ** 2).sum())
    return math.sqrt((1.0 - share) * (g - 1) / g * spread) * scale


def _finite(groups: Sequence[NDArray[np.floating[Any]]]) -> list[NDArray[np.float64]]:
    """The finite elements of each group as float64, groups without any left out."""
    kept = (group[np.isfinite(group)].astype(np.float64) for group in groups)
    return [group for group in kept if group.size]


def _power_sums(group: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(group.size), float(group.sum()), float(np.square(group).sum())
