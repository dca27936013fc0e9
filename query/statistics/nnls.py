"""Non-negative least squares, for tall matrices with few columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nnls(matrix: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Minimise `|matrix @ x - target|` over `x >= 0` by active sets (Lawson & Hanson 1974, ch. 23, algorithm NNLS).

    The columns are first scaled to unit length and reduced by QR, so that every step solves a system of `k` rows with
    the condition number of the matrix (the normal equations would square it). If columns are linearly dependent, the
    weights are one of several minimisers.

    Args:
        matrix: `[n, k]`, finite.
        target: `[n]`, finite.

    Returns:
        `x` `[k]`, and the norm of the residual.
    """
    k = matrix.shape[1]
    lengths = np.linalg.norm(matrix, axis=0)
    empty = lengths == 0
    scale = np.where(empty, 1.0, lengths)
    q, r = np.linalg.qr(matrix / scale)
    d = q.T @ target
    floor = 10 * float(np.finfo(np.float64).eps) * max(matrix.shape) * float(np.linalg.norm(d))
    x, used, refused = np.zeros(k), np.zeros(k, dtype=bool), empty.copy()
    for _ in range(10 * k):  # about 2 k steps are usual; the limit ends a cycle due to rounding
        slope = np.where(used | refused, -np.inf, r.T @ (d - r @ x))
        steepest = int(np.argmax(slope))
        if slope[steepest] <= floor:
            break
        used[steepest] = True
        z = _solve(r, d, used)
        if z[steepest] <= 0:  # its slope was a rounding error: it depends on the columns in use
            used[steepest], refused[steepest] = False, True
            continue
        while (negative := used & (z <= 0)).any():
            # Move towards z until the first weight becomes zero, and drop that column.
            steps = np.where(negative, x, np.inf) / np.where(negative, x - z, 1.0)
            first = int(np.argmin(steps))
            x = np.maximum(x + steps[first] * (z - x), 0.0)
            x[first] = 0.0
            used &= x > 0
            z = _solve(r, d, used)
        x, refused = z, empty.copy()
    x = x / scale
    return x, float(np.linalg.norm(matrix @ x - target))


def _solve(r: NDArray[np.float64], d: NDArray[np.float64], used: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Least squares on the columns in use; zero for the others."""
    x = np.zeros(len(used))
    x[used] = np.linalg.lstsq(r[:, used], d)[0]
    return x
