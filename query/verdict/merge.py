"""Recognising a merge: a member that is a weighted sum of several relatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Frame
from provenance.query.statistics.nnls import nnls

INDEPENDENT = 0.5
"""Share of the energy left over that independent changes would leave: 1 for any base and its children, 0 for an exact
merge. Highest of the merges measured 0.03, lowest of the others 0.99."""

IMPROVED = 0.6
"""Share of the distance to the nearest relative that may be left over: a noisy copy of one relative is no merge."""

FAR_BETTER = 4.0
MIN_WEIGHT = 0.1
MIN_CELLS = 256
COVERED = 0.95
"""Share of the model's cells that a parent must have."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Merge:
    """A member as a weighted sum of others.

    Attributes:
        weights: of its parents, by their place in the frame; with the reference they sum to 1.
        reference: the place of the base that the changes of the parents are counted from, where it is none of them
            itself: its own share is what the weights lack to 1 (task arithmetic, arXiv 2212.04089).
        left_over: energy of what the sum does not explain over what independent parents would leave.
    """

    weights: Mapping[int, float]
    reference: int | None
    left_over: float


def find_merge(frame: Frame, member: int, others: Sequence[int], precedes: Callable[[int, int], bool]) -> Merge | None:
    """The sum of others that a member is, null where it is none.

    With any of the others as reference R the change `member - R` is regressed on the changes of the rest without an
    intercept, weights not negative (Lawson & Hanson 1974, ch. 23). Let a_i be the weights, the reference's being what
    is missing to 1, and U_i the difference of parent i from the member. A merge leaves |Σ a_i U_i|² near 0. A base
    looks like a mean of its children, but their changes are independent: then it is Σ a_i² |U_i|². The ratio of the
    two tells a merge from a base, however many children are stored.

    From M = (A + B) / 2 follows A = 2 M - B: a reference of negative weight must itself be older than all the others.

    Args:
        frame: the family.
        member: place of the model.
        others: places of relatives whose cells correspond to it.
        precedes: whether the weights say that one member came before another.
    """
    cells = frame.mask[member]
    usable = [o for o in others if not frame.equal[o, member] and frame.mask[o][cells].mean() >= COVERED]
    usable = [o for place, o in enumerate(usable) if not any(frame.equal[o, e] for e in usable[:place])]
    if len(usable) < 2:
        return None
    cells = frame.mask[[member, *usable]].all(axis=0)
    if cells.sum() < MIN_CELLS:
        return None
    change = frame.weights[usable][:, cells] - frame.weights[member][cells]
    gram = change @ change.T
    found = [m for r in range(len(usable)) if (m := _with_reference(gram, r, usable, member, precedes)) is not None]
    # Where no weight is negative there is no doubt which of them is the merge: others must explain it far better.
    return min(
        found, key=lambda merge: merge.left_over * (FAR_BETTER if merge.reference is not None else 1), default=None
    )


def _with_reference(
    gram: Array, reference: int, places: Sequence[int], member: int, precedes: Callable[[int, int], bool]
) -> Merge | None:
    shares = _shares(gram, reference, np.ones(len(gram), np.bool_))
    kept = np.abs(shares) >= MIN_WEIGHT
    shares = _shares(gram, reference, kept)
    kept = np.abs(shares) >= MIN_WEIGHT
    parents = np.flatnonzero(shares >= MIN_WEIGHT).tolist()
    independent = float(shares**2 @ np.diag(gram))
    left = float(shares @ gram @ shares)
    if len(parents) < 2 or left > INDEPENDENT * independent or left > IMPROVED * gram.diagonal()[kept].min():
        return None
    base = None
    if shares[reference] <= -MIN_WEIGHT:
        base = places[reference]
        if not all(precedes(base, place) for place in (member, *(places[i] for i in parents))):
            return None
    return Merge({places[i]: float(shares[i]) for i in parents}, base, left / independent)


def _shares(gram: Array, reference: int, kept: NDArray[np.bool_]) -> Array:
    """Weights `[k]` that sum to 1, all but the reference's not negative, of the smallest sum of differences."""
    k = len(gram)
    rest = [i for i in range(k) if i != reference and kept[i]]
    shares = np.zeros(k)
    shares[reference] = 1.0
    if not rest:
        return shares
    # |U_r + Σ w_i (U_i - U_r)|² through the Gram matrix of the U.
    inner = gram[np.ix_(rest, rest)] - gram[rest, reference][:, None] - gram[reference, rest][None, :]
    inner = inner + gram[reference, reference]
    target = gram[reference, reference] - gram[rest, reference]
    values, vectors = np.linalg.eigh(inner)
    keep = values > values.max() * 1e-12
    root = (vectors[:, keep] * np.sqrt(values[keep])).T
    weights, _ = nnls(root, (vectors[:, keep] / np.sqrt(values[keep])).T @ target)
    shares[rest] = weights
    shares[reference] = 1.0 - weights.sum()
    return shares
