"""Rounding to a coarser grid, as packing in fewer bits does it: which of two was rounded, and how that looks."""

from __future__ import annotations

import numpy as np

from provenance.indexer.dossier import Dossier
from provenance.query.statistics.alignment import Slopes
from provenance.schemas.sampling import OFFSETS, TILE, sequence

ROUNDED = 3.0
"""Distance up to which the one with more repeated values was rounded from the other, in units of the square of their
share: 0.04 to 0.6 in 8 and 4 bits, 20 for a model that was trained after rounding."""

MIN_REPEATS, MORE = 0.02, 2.0
"""Least share of repeated values of a rounded model, and how many times as many it has as the other."""

UNBOUNDED = 0.002
"""Share of changed cells beyond the rounding of 8-bit floats up to which a change is rounding. Training moves small
weights as far as large ones: light fine-tunes have 0.2 and more."""

ROUNDING_KURTOSIS = 2.0
"""Between the 1.8 of a uniform rounding error and the 3 of Gaussian noise; of few cells training leaves 2.4 too."""


def repeated_values(dossier: Dossier) -> float:
    """Share of the sampled weights of a row that equal another one of it, zeros left out, over all rows.

    Rows, because packed formats scale each row, or groups inside it, by itself.
    """
    cells = dossier.matrices
    row = cells.owner * (OFFSETS[-1] + TILE) + sequence()[cells.position, 1]
    row, value = row[cells.weights != 0], cells.weights[cells.weights != 0]
    if len(value) == 0:
        return 0.0
    order = np.lexsort((value, row))
    return float(np.mean((np.diff(row[order]) == 0) & (np.diff(value[order]) == 0)))


def rounded_from(first: float, second: float, distance: float) -> int:
    """Whose weights were rounded from the other's, by `repeated_values`: 1 the second's, -1 the first's, else 0."""
    return is_rounded(second, first, distance) - is_rounded(first, second, distance)


def is_rounded(child: float, parent: float, distance: float) -> bool:
    """Whether a child's weights were rounded from a parent's: its values repeat, and it is as near as rounding leaves.

    Args:
        child: share of repeated values (`repeated_values`) of the one that may be rounded.
        parent: of the other.
        distance: of the two, in units of their variance. The error of rounding grows with the square of the step, and
            so of the share of repeated values.
    """
    return child > max(MIN_REPEATS, MORE * parent) and distance <= ROUNDED * child**2


def is_rounding(change: Slopes) -> bool:
    """Whether a change has the shape of a rounding error: bounded by the size of each weight, or uniform."""
    return change.unbounded < UNBOUNDED or change.change_kurtosis < ROUNDING_KURTOSIS
