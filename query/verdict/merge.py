"""Recognising a merge: a member of a family that is a weighted sum of several others.

Let U_i be the difference of a relative i from the member, and a_i weights that sum to 1. A merge leaves |Σ a_i U_i|²
near 0. A base looks like a mean of its children, but their changes are independent of each other: then the sum leaves
Σ a_i² |U_i|². The ratio of the two tells a merge from a base, however many children are stored.

From M = (A + B) / 2 follows A = 2 M - B. With no weight negative the merge is the one that lies between the others. A
negative weight is accepted only for a base that is clearly older than all the others (task arithmetic, arXiv
2212.04089): M = R + λ (A - R) + λ (B - R).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Frame
from provenance.query.statistics.nnls import nnls

INDEPENDENT = 0.5
"""Largest share of the energy left over that independent changes would leave. On the zoo merges have 0.03 at the most,
all others 0.99 and more."""

IMPROVED = 0.6
"""Largest share of the squared distance to the nearest relative that may be left over: a noisy copy is no merge."""

OPPOSED = -0.05
"""Cosine of two differences that points to opposite sides: -1 / (k - 1) for the equal mean of k, 0 for a base."""

MIN_WEIGHT = 0.1
MIN_CELLS = 256
COVERED = 0.95
"""Share of the member's cells that a parent must have."""

NEAREST = 64
"""Relatives that are tried, the nearest ones."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Merge:
    """A member as a weighted sum of others.

    Attributes:
        weights: of its parents, by their place in the frame; with the reference's they sum to 1. For layers that were
            stacked (passthrough): the share of the member's layers that came from each.
        reference: the place of the base of task arithmetic, whose weight is negative; null elsewhere.
        left_over: what the sum does not explain, as a share of what independent parents would leave.
    """

    weights: Mapping[int, float]
    reference: int | None
    left_over: float


def find_mean(frame: Frame, member: int, others: Sequence[int]) -> Merge | None:
    """The weighted mean of others that a member is, null where it is none.

    Args:
        frame: the family.
        member: place of the model.
        others: places of relatives whose cells correspond to it.
    """
    places, gram = _differences(frame, member, others)
    if len(places) < 2 or not _surrounded(gram):
        return None
    kept = np.flatnonzero(_mix(gram, range(len(places))) >= MIN_WEIGHT).tolist()
    shares = _mix(gram, kept) if len(kept) > 1 else np.zeros(len(places))
    left_over = _left_over(gram, shares)
    return None if left_over is None else Merge({places[i]: float(shares[i]) for i in kept}, None, left_over)


def find_sum(frame: Frame, member: int, base: int, children: Sequence[int]) -> Merge | None:
    """Changes of several children of a base, added to it (task arithmetic); null where the member is no such sum.

    Args:
        frame: the family.
        member: place of the model.
        base: place of the base.
        children: places of relatives that came after the base.
    """
    places, gram = _differences(frame, member, [base, *children])
    if not places or base not in places:
        return None
    reference = places.index(base)
    chosen = [i for i in range(len(places)) if i != reference]
    shares = np.zeros(len(places))
    for _ in range(2):
        if len(chosen) < 2:
            return None
        # |U_r + Σ w_i (U_i - U_r)|² through the Gram matrix of the U.
        inner = gram[np.ix_(chosen, chosen)] - gram[chosen, reference][:, None] - gram[reference, chosen][None, :]
        weights = _least_squares(
            inner + gram[reference, reference], gram[reference, reference] - gram[chosen, reference]
        )
        shares = np.zeros(len(places))
        shares[chosen], shares[reference] = weights, 1 - weights.sum()
        chosen = [i for i in chosen if shares[i] >= MIN_WEIGHT]
    left_over = _left_over(gram, shares)
    if shares[reference] > -MIN_WEIGHT or len(chosen) < 2 or left_over is None:
        return None
    return Merge({places[i]: float(shares[i]) for i in chosen}, base, left_over)


def _differences(frame: Frame, member: int, others: Sequence[int]) -> tuple[list[int], Array]:
    """Distinct relatives that cover the member, the nearest ones, and inner products of their differences from it."""
    cells = frame.mask[member]
    usable = [o for o in others if not frame.equal[o, member] and frame.mask[o][cells].mean() >= COVERED]
    usable = [o for place, o in enumerate(usable) if not any(frame.equal[o, e] for e in usable[:place])]
    usable = sorted(usable, key=lambda o: float(frame.shared.distance[o, member]))[:NEAREST]
    cells = frame.mask[[member, *usable]].all(axis=0)
    if cells.sum() < MIN_CELLS:
        return [], np.zeros((0, 0))
    change = frame.weights[usable][:, cells] - frame.weights[member][cells]
    return usable, change @ change.T


def _surrounded(gram: Array) -> bool:
    """Whether any two relatives are on opposite sides of the member, as the parents of a mean are. Cheap to see."""
    scale = np.sqrt(np.diag(gram))
    cosine = np.divide(gram, np.outer(scale, scale), out=np.zeros_like(gram), where=np.outer(scale, scale) > 0)
    return bool(cosine.min() <= OPPOSED)


def _left_over(gram: Array, shares: Array) -> float | None:
    """What is left over as a share of what independent parents would leave; null where that is no merge."""
    left, independent = float(shares @ gram @ shares), float(shares**2 @ np.diag(gram))
    if independent == 0 or left > INDEPENDENT * independent or left > IMPROVED * float(np.diag(gram).min()):
        return None
    return left / independent


def _mix(gram: Array, chosen: Sequence[int]) -> Array:
    """Weights `[k]` of the chosen that sum to 1, none negative, and leave as little as possible."""
    own = gram[np.ix_(chosen, chosen)]
    # The sum is held at 1 by one more equation of great weight.
    heavy = 1e4 * float(np.trace(own)) / len(chosen)
    weights = _least_squares(own + heavy, np.full(len(chosen), heavy))
    shares = np.zeros(len(gram))
    shares[list(chosen)] = weights / weights.sum()
    return shares


def _least_squares(normal: Array, target: Array) -> Array:
    """Weights, none negative, from normal equations."""
    values, vectors = np.linalg.eigh(normal)
    keep = values > values.max() * 1e-13
    root = (vectors[:, keep] * np.sqrt(values[keep])).T
    return nnls(root, (vectors[:, keep] / np.sqrt(values[keep])).T @ target)[0]
