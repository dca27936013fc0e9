"""A checkpoint as a weighted sum of others: the weights, their errors, and what is lost without each of the others.

Let U_i be the difference of relative i from the checkpoint M. Weights that sum to 1 leave S = Σ a_i U_i, which is 0 for
an exact blend. Everything is computed from the inner products of the U, one table for each matrix. Matrices are the
clusters of the standard errors: the cells of one matrix may depend on each other, and weights may vary from matrix to
matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.nnls import nnls
from provenance.query.statistics.significance import block_t, student_log10_p

HEAVY = 1e4
"""Weight of the equation that holds the sum at 1, in units of the mean energy of a difference."""

RANK = 1e-13

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Weights of several checkpoints in another one, by their order.

    Attributes:
        weights: `[k]`, that of the reference included: they sum to 1.
        errors: `[k]` their standard errors, robust to dependence inside a matrix.
        log10_p: `[k]` of the hypothesis that the weight is 0, when all others may take over; 0 for too few matrices.
    """

    weights: Array
    errors: Array
    log10_p: Array


def inner_products(change: Array, owner: NDArray[np.int64]) -> Array:
    """Inner products `[G, k, k]` of differences `[k, C]` in each of the matrices `[C]` that their cells belong to."""
    _, where = np.unique(owner, return_inverse=True)
    order = np.argsort(where, kind="stable")
    ends = np.cumsum(np.bincount(where))
    return np.array([change[:, part] @ change[:, part].T for part in np.split(order, ends[:-1])])


def mix(gram: Array, chosen: Sequence[int]) -> Array:
    """Weights `[k]`, zero but for the chosen, that sum to 1, none negative, and leave as little as possible."""
    own = gram[np.ix_(chosen, chosen)]
    heavy = HEAVY * float(np.trace(own)) / len(chosen)
    shares = np.zeros(len(gram))
    if heavy > 0:
        weights = least_squares(own + heavy, np.full(len(chosen), heavy))
        shares[list(chosen)] = weights / weights.sum()
    return shares


def least_squares(normal: Array, target: Array) -> Array:
    """Weights, none negative, from normal equations."""
    values, vectors = np.linalg.eigh(normal)
    keep = values > values.max() * RANK
    root = (vectors[:, keep] * np.sqrt(values[keep])).T
    weights: Array = nnls(root, (vectors[:, keep] / np.sqrt(values[keep])).T @ target)[0]
    return weights


def pull(gram: Array, shares: Array) -> Array:
    """For each share what is left over, by what its own difference adds: |S|² / (a_i |U_i|²), `[k]`.

    Differences that are independent of each other have 1 or more, whatever the weights; the parents of a blend have
    less, because their differences cancel.
    """
    own = shares * np.diag(gram)
    infinite = np.full(len(own), np.inf)
    share: Array = np.divide(float(shares @ gram @ shares), own, out=infinite, where=own > 0)
    return share


def estimate(grams: Array, chosen: Sequence[int], reference: int | None = None) -> Estimate:
    """Least squares without bounds, with a sandwich of matrices for the errors (Liang & Zeger 1986, eq. 5).

    Args:
        grams: `[G, k, k]` from `inner_products`.
        chosen: the checkpoints to weigh.
        reference: takes what is missing to 1 (the base of task arithmetic); null: the last of the chosen does.
    """
    free = list(chosen) if reference is not None else list(chosen[:-1])
    last = chosen[-1] if reference is None else reference
    normal, target = _equations(grams, free, last)
    weights = _solve(normal.sum(axis=0), target.sum(axis=0))
    score = target - normal @ weights
    n, k = len(grams), len(free)
    bread = np.linalg.pinv(normal.sum(axis=0))
    spread = bread @ (score.T @ score) @ bread * (n / max(n - k, 1))
    errors = np.sqrt(np.maximum(np.diag(spread), 0))
    log10_p = [_log10_p(grams, one, [f for f in free if f != one], last) for one in free]
    if reference is None:
        weights = np.append(weights, 1 - weights.sum())
        errors = np.append(errors, np.sqrt(max(float(spread.sum()), 0.0)))
        log10_p.append(_log10_p(grams, last, free[:-1], free[-1]) if free else 0.0)
    return Estimate(weights, errors, np.array(log10_p))


def compare_sets(grams: Array, one: Sequence[int], other: Sequence[int]) -> float:
    """Student's t of how much more the second set leaves over than the first, matrix by matrix."""
    total = grams.sum(axis=0)
    left = [np.einsum("i,gij,j->g", shares, grams, shares) for shares in (mix(total, one), mix(total, other))]
    return block_t(left[1] - left[0], np.ones(len(grams)))[0]


def _equations(grams: Array, free: Sequence[int], last: int) -> tuple[Array, Array]:
    """Normal equations `[G, m, m]` and `[G, m]` of M - X_last on the X_i - X_last."""
    cross, own = grams[:, free, last], grams[:, last, last]
    normal = grams[:, free][:, :, free] - cross[:, :, None] - cross[:, None, :] + own[:, None, None]
    return normal, own[:, None] - cross


def _log10_p(grams: Array, one: int, others: Sequence[int], last: int) -> float:
    """Block t test of one more checkpoint, cleared of the others (a score test of the nested regression)."""
    normal, target = _equations(grams, [one, *others], last)
    total, aim = normal.sum(axis=0), target.sum(axis=0)
    cleared = np.append(1.0, -_solve(total[1:, 1:], total[1:, 0]))
    residual = target - normal[:, :, 1:] @ _solve(total[1:, 1:], aim[1:])
    size = np.einsum("i,gij,j->g", cleared, normal, cleared)
    t, blocks = block_t(residual @ cleared, np.maximum(size, 0))
    return student_log10_p(t, blocks - 1) if t else 0.0


def _solve(normal: Array, target: Array) -> Array:
    solved = np.zeros(len(target))
    if len(target):
        solved[:] = np.linalg.lstsq(normal, target)[0]
    return solved
