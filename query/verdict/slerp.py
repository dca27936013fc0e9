"""Telling a blend along a great circle (SLERP, Shoemake 1985) from one along the chord.

On the circle between A and B with angle θ, the point at t is longer than that of the chord by the factor
cos(θ (1/2 - t)) / cos(θ/2): about 1 + θ² t (1 - t) / 2. So a part of A + B is left over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Frame

LONGER = 0.5
"""Share of the expected excess of length from which a blend was along the circle: 0 for the chord, 1 for the circle."""

SURE = 4.0
"""Standard errors that this share must have from 0."""

SMALL = 0.9995
"""Cosine from which merging tools take the chord even where the circle was asked for."""

Array = NDArray[np.float64]


def is_slerp(frame: Frame, member: int, parents: tuple[int, int], share: Array) -> bool:
    """Whether a blend of two is longer than their chord, as the circle is.

    Args:
        frame: the family.
        member: place of the blend.
        parents: places of the two.
        share: `[C]` weight of the second at every cell.
    """
    one, other = parents
    cells = frame.mask[[member, one, other]].all(axis=0)
    a, b, m = (frame.weights[place][cells] for place in (one, other, member))
    owner, t = frame.owner[cells], share[cells]
    groups = int(owner[-1]) + 1

    def total(values: Array) -> Array:
        return np.bincount(owner, values, minlength=groups).astype(np.float64)

    lengths = np.sqrt(total(a * a) * total(b * b))
    cosine = np.divide(total(a * b), lengths, out=np.ones(groups), where=lengths > 0)
    angle = np.where(cosine < SMALL, np.arccos(np.clip(cosine, -1, 1)), 0.0)[owner]
    chord = (1 - t) * a + t * b
    excess = (np.cos(angle * (0.5 - t)) / np.cos(angle / 2) - 1) * chord
    energy, found = total(excess * excess), total(excess * (m - chord))
    if energy.sum() == 0:
        return False
    longer = float(found.sum() / energy.sum())
    error = float(np.sqrt(((found - longer * energy) ** 2).sum()) / energy.sum())
    return longer > LONGER and longer > SURE * error
