"""Recognising a merge: the model's change is a weighted sum of the changes of several relatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.nnls import nnls

UNEXPLAINED = 0.1
"""Share of the change's energy that may be left over."""

MIN_WEIGHT = 0.1
MIN_CELLS = 256


def merge_weights(
    model: NDArray[np.float64], relatives: NDArray[np.float64], created: Sequence[str | None]
) -> list[float | None]:
    """Weights of the relatives that the model was merged from.

    With the oldest relative as reference R, the change `model - R` is regressed on the changes of the others without
    an intercept, weights not negative. A merge leaves nearly nothing over and
    gives weight to at least two, the reference counted with what is missing to 1 (task arithmetic, arXiv 2212.04089).

    Args:
        model: weights `[n]`, NaN where missing.
        relatives: `[k, n]` laid on the model's cells.
        created: time of creation of those that may be parents, else null.

    Returns:
        a weight for every relative that is one of the merged, null for the others.
    """
    found: list[float | None] = [None] * len(created)
    parents = sorted((time, i) for i, time in enumerate(created) if time is not None)
    if len(parents) < 2:
        return found
    reference = parents[0][1]
    others = _distinct(relatives, [i for _, i in parents])[1:]
    use = np.isfinite(model) & np.isfinite(relatives[[reference, *others]]).all(axis=0)
    if not others or use.sum() < MIN_CELLS:
        return found
    change = (model - relatives[reference])[use]
    energy = float(change @ change)
    if energy == 0:
        return found
    weights, residual = nnls((relatives[others] - relatives[reference])[:, use].T, change)
    shares = {reference: 1 - float(weights.sum())} | dict(zip(others, map(float, weights), strict=True))
    merged = {i: share for i, share in shares.items() if share >= MIN_WEIGHT}
    if len(merged) < 2 or residual**2 > UNEXPLAINED * energy:
        return found
    for i, share in merged.items():
        found[i] = share
    return found


def _distinct(relatives: NDArray[np.float64], order: Sequence[int]) -> list[int]:
    """Indices in `order` without later copies of an earlier one, which would split its weight."""
    kept: list[int] = []
    for i in order:
        if not any(np.array_equal(relatives[i], relatives[j], equal_nan=True) for j in kept):
            kept.append(i)
    return kept
