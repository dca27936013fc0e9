"""Correlation of norm weights and biases, centred per tensor. Its null is empirical: it supports, never convicts."""

from __future__ import annotations

import math

import numpy as np

from provenance.indexer.dossier import Cells
from provenance.query.evidence.pair import Pair
from provenance.query.statistics.significance import empirical_p
from provenance.schemas.results import Evidence

_MIN_ELEMENTS = 32


def measure(pair: Pair) -> Evidence | None:
    """Pooled correlation over norms and biases of equal layers, each centred and scaled separately.

    The raw cosine would be useless: norm weights are near 1, so unrelated models reach 0.99.
    """
    value, n = norm_correlation(pair)
    if n < _MIN_ELEMENTS:
        return None
    p = empirical_p(value, pair.strangers("norm_correlation"))
    return Evidence("norm_correlation", value, p, None if p is None else math.log10(p), n)


def norm_correlation(pair: Pair) -> tuple[float, int]:
    """The correlation and the number of elements; 0 and 0 if no tensor of equal width varies in both."""
    keys_a, values_a = _elements(pair.a.dossier.vectors)
    keys_b, values_b = _elements(pair.b.dossier.vectors)
    _, in_a, in_b = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
    x, y = values_a[in_a], values_b[in_b]
    use = (x != 0) & (y != 0)
    # Elements are scaled by the whole of each tensor, which may hold more than the part compared.
    return (float(np.clip(np.mean(x[use] * y[use]), -1, 1)), int(use.sum())) if use.any() else (0.0, 0)


def _elements(
    cells: Cells,
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    facts = cells.facts
    # Role, layer and width identify a tensor: vectors of different widths are not compared.
    tensor = (facts["role"].astype(np.int64) << 48) + ((facts["layer"].astype(np.int64) + 1) << 32)
    tensor += facts["rows"].astype(np.int64) << 13
    return tensor[cells.owner] + cells.position, cells.standardised()
