"""Recognising a merge of sparse changes: TIES (arXiv 2306.01708) and DARE (arXiv 2311.03099).

Cells of each parent's change from the base are dropped, the others scaled, and where several are left they are added or
averaged, after a vote on their sign. So every cell of the merge is the base, or the base plus a fixed multiple of *one*
parent's change, or a sum or mean of several. The multiple shows as a sharp peak of the ratio of the merge's change to
the parent's: nothing else that is done to weights gives two parents such peaks on different cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.blend import inner_products
from provenance.query.statistics.frame import Frame
from provenance.query.verdict.merge import Merge, differences, weighed
from provenance.schemas.enums import MergeMethod

ROUNDING = 2.0**-9
"""Largest relative error of a weight in bfloat16."""

CLEAR_OF_ROUNDING = 24.0
"""A change is used where it is so many times larger than the rounding of the weights."""

PEAK, BESIDE = 0.05, 0.2
"""Half width of a peak, and of the neighbourhood that it must stand out of, on the logarithmic scale of the ratio."""

SHARP = 4.0
"""How many times denser a peak must be than its neighbourhood: that of a smooth density has 1."""

MIN_SHARE = 0.08
"""Smallest share of the cells that one parent alone explains."""

EXPLAINED = 0.75
"""Share of the cells that parents and base explain together."""

NEAR = 0.1
"""A relative so near to the member, in units of the distance of the base, gave all or came from it: no sparse part."""

RESCALED = 1.1
"""Multiples over this are those of DARE, which scales what it leaves."""

MOST_PARENTS, MIN_CELLS = 4, 128
RATIOS = (0.1, 20.0)

Array = NDArray[np.float64]
Cells = NDArray[np.bool_]


def untouched(frame: Frame, member: int, others: Sequence[int]) -> Array:
    """Share of the cells in which a member equals each of some others, in matrices that differ somewhere, `[n]`."""
    equal = (frame.weights[others] == frame.weights[member]) & frame.mask[others] & frame.mask[member]
    _, first, cells = np.unique(frame.owner, return_index=True, return_counts=True)
    same = np.add.reduceat(equal, first, axis=1, dtype=np.int64)
    changed = same < cells
    share: Array = (same * changed).sum(axis=1) / np.maximum((cells * changed).sum(axis=1), 1)
    return share


def find_sparse(frame: Frame, member: int, base: int, children: Sequence[int]) -> Merge | None:
    """The checkpoints whose changes from a base were merged cell by cell; null where the member is no such merge.

    Args:
        frame: the family.
        member: place of the model.
        base: place of the base.
        children: places of relatives that may be parents.
    """
    near = NEAR * float(frame.squared[base, member])
    distinct = [child for child in children if float(frame.squared[child, member]) > near]
    places, change, owner = differences(frame, member, [base, *distinct])
    if base not in places or len(places) < 3:
        return None
    reference = places.index(base)
    cells = frame.mask[[member, *places]].all(axis=0)
    own = -change[reference]
    others = change - change[reference]
    size = np.abs(frame.weights[places][:, cells]).max(axis=0) + np.abs(frame.weights[member][cells])
    rounding = ROUNDING * size
    clear = np.abs(others) > CLEAR_OF_ROUNDING * rounding
    taken, scales = np.zeros(own.shape, np.bool_), dict[int, float]()
    while len(scales) < MOST_PARENTS:
        rest = [i for i in range(len(places)) if i != reference and i not in scales]
        peaks = {i: peak for i in rest if (peak := _peak(own, others[i], clear[i] & ~taken, clear[i])) is not None}
        if not peaks:
            break
        best = max(peaks, key=lambda i: int(peaks[i][1].sum()))
        scales[best] = peaks[best][0]
        taken |= peaks[best][1]
    if len(scales) < 2:
        return None
    if max(scales.values()) > RESCALED:
        # Seen from a merge of rescaled changes its base is one too; but it is nearer to the parents.
        distance = frame.squared[[base, member]][:, [places[i] for i in scales]].sum(axis=1)
        if distance[0] > distance[1]:
            return None
    used = clear[list(scales)].all(axis=0)
    explained = _explained(own, [scale * others[i] for i, scale in scales.items()], rounding)
    explained_share = float(explained[used].mean()) if used.sum() >= MIN_CELLS else 0.0
    if explained_share < EXPLAINED:
        return None
    parents = weighed(inner_products(change, owner), places, list(scales), reference)
    if min(share.weight for share in parents.values()) <= 0:
        return None
    method = MergeMethod.DARE_TIES if max(scales.values()) > RESCALED else MergeMethod.TIES
    return Merge(method, parents, base, 1 - explained_share)


def _peak(own: Array, other: Array, free: Cells, clear: Cells) -> tuple[float, Cells] | None:
    """The multiple of another's change that a member's change is in many cells exactly, and these cells."""
    if free.sum() < MIN_CELLS:
        return None
    ratio = np.divide(own, other, out=np.zeros_like(own), where=free)
    inside = free & (ratio > RATIOS[0]) & (ratio < RATIOS[1])
    logs = np.sort(np.log(ratio[inside]))
    if len(logs) < MIN_SHARE * clear.sum():
        return None
    near, far = (np.searchsorted(logs, logs + w) - np.searchsorted(logs, logs - w) for w in (PEAK, BESIDE))
    top = int(np.argmax(near))
    beside = max(float(far[top] - near[top]) * PEAK / (BESIDE - PEAK), 1.0)
    if near[top] < MIN_SHARE * clear.sum() or near[top] < SHARP * beside:
        return None
    around = np.abs(logs - logs[top]) <= PEAK
    scale = float(np.exp(np.median(logs[around])))
    return scale, inside & (np.abs(np.log(np.where(inside, ratio, 1.0)) - np.log(scale)) <= PEAK)


def _explained(own: Array, scaled: Sequence[Array], rounding: Array) -> Cells:
    """Cells that are the base, or the sum or mean of some of the scaled changes."""
    found = np.abs(own) <= 2 * rounding
    for number in range(1, len(scaled) + 1):
        for some in combinations(scaled, number):
            total = np.sum(some, axis=0)
            for value in (total, total / number):
                found |= np.abs(own - value) <= 2 * rounding + PEAK * np.abs(value)
    return found
