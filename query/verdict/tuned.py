"""Recognising a merge that was trained on for so long that its parents hardly lie on opposite sides of it any more.

Seen from the base of the parents the merge is still Σ w_i (A_i - R) plus an independent change, with weights that sum
to 1. Siblings on several texts share some of the parents' changes too, but not all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from provenance.query.statistics.blend import estimate, inner_products, least_squares
from provenance.query.statistics.frame import Frame
from provenance.query.verdict.merge import SIGNIFICANT, Merge, Share, differences
from provenance.schemas.enums import MergeMethod

MIN_WEIGHT, SUM = 0.2, (0.9, 1.1)
"""Smallest weight of a parent, and the sum of all: siblings have weights of 0.16 at most for a second relative."""

EXPLAINED = 0.5
"""Least share of the change from the base that the parents explain: for siblings on one text it is .35."""

UNLIKE, COMPARABLE = 0.3, 4.0
"""Largest cosine of two parents' changes, and of one's energy to the other's: snapshots of one run have more."""


def find_tuned(frame: Frame, member: int, base: int, children: Sequence[int]) -> Merge | None:
    """The children of a base that a member was merged from before it was trained on; null where it was not.

    Args:
        frame: the family.
        member: place of the model.
        base: place of the base.
        children: places of relatives that may be parents.
    """
    places, change, owner = differences(frame, member, [base, *children])
    if base not in places:
        return None
    reference = places.index(base)
    moved = change - change[reference]
    gram, aim, energy = moved @ moved.T, -moved @ change[reference], float(change[reference] @ change[reference])
    chosen = [i for i in range(len(places)) if i != reference]
    weights = np.zeros(0)
    for _ in range(2):
        if len(chosen) < 2:
            return None
        weights = least_squares(gram[np.ix_(chosen, chosen)], aim[chosen])
        kept = weights >= MIN_WEIGHT
        chosen, weights = [i for i, keep in zip(chosen, kept, strict=True) if keep], weights[kept]
    own = gram[np.ix_(chosen, chosen)]
    left = energy - 2 * float(weights @ aim[chosen]) + float(weights @ own @ weights)
    length = np.sqrt(np.diag(own))
    cosine = own / np.outer(length, length) - np.eye(len(chosen))
    if len(chosen) < 2 or not SUM[0] <= weights.sum() <= SUM[1] or left > (1 - EXPLAINED) * energy:
        return None
    if cosine.max() > UNLIKE or length.max() ** 2 > COMPARABLE * length.min() ** 2:
        return None
    found = estimate(inner_products(change, owner), chosen, reference)
    log10_p = np.minimum(0.0, found.log10_p + math.log10(len(places)))
    if log10_p.max() > SIGNIFICANT:
        return None
    shares = {
        places[i]: Share(float(found.weights[at]), float(found.errors[at]), float(log10_p[at]))
        for at, i in enumerate(chosen)
    }
    return Merge(MergeMethod.LINEAR, shares, None, left / energy)
