"""Distances between curves: descriptive statistics without a null distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.signature import POINTS, resample

Curves = Mapping[str, NDArray[np.float64]]


def wasserstein(a: Curves, b: Curves) -> float | None:
    """Mean over the roles of the 1-Wasserstein distance between curves, taken as mass over relative depth.

    In one dimension it is the area between the distribution functions (Vallender 1974); 0 to 1, in units of depth.

    Returns:
        null if the curves share no role.
    """
    return _mean(a, b, lambda p, q: float(np.abs(np.cumsum(p) - np.cumsum(q)).sum() / (len(p) - 1)))


def kl_divergence(a: Curves, b: Curves) -> float | None:
    """Mean over the roles of the Kullback-Leibler divergence D(a || b) in nats, of curves taken as mass over depth.

    Returns:
        null if the curves share no role.
    """
    return _mean(a, b, lambda p, q: float(np.sum(p * np.log(p / q))))


def _mean(a: Curves, b: Curves, distance: Callable[[NDArray[np.float64], NDArray[np.float64]], float]) -> float | None:
    distances = [
        distance(p, q)
        for role in a
        if role in b and (p := _mass(a[role])) is not None and (q := _mass(b[role])) is not None
    ]
    return float(np.mean(distances)) if distances else None


def _mass(curve: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """A positive curve resampled over relative depth and scaled to sum 1; null if it is not positive."""
    if len(curve) < 2 or not np.all(np.isfinite(curve)) or np.any(curve <= 0):
        return None
    points = resample(curve, POINTS)
    mass: NDArray[np.float64] = points / points.sum()
    return mass
