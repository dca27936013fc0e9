"""The vectors of a checkpoint for nearest-neighbour search: three unit vectors of fixed length.

The **signature** is made of curves (one statistic of one role over the layers). The inner product of two signatures is
the mean of the Pearson correlations of the resampled curves, so that models of different depth can be compared;
`published_score` is the exact score of the paper for one pair. The **sketch** is a random projection of the weight
sample; the inner product of two sketches estimates the cosine of two samples of any number of cells. The **product
vector** is one of what no inner disguise changes, and finds disguised copies. They only *recall* candidates: none is
evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from provenance.schemas.products import ANCHORS
from provenance.schemas.roles import ATTENTION, ROLES
from provenance.schemas.sampling import SEQUENCE_LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from provenance.schemas.products import ProductSketch

SPEC = "qkvo-std-z-64"
"""The name contains every parameter that changes a value: roles, statistic, scaling over the layers, depth points."""

POINTS = 64
DIMENSION = len(ATTENTION) * POINTS

CONSTANT = 1e-6
"""A curve counts as constant if its range is at most this fraction of its largest magnitude: float32 rounding."""

SKETCH_DIMENSION = 256
N_SKETCH_KEYS = len(ROLES) * SEQUENCE_LENGTH
"""A sketch key is `ROLE_CODE[role] * SEQUENCE_LENGTH + position in provenance.schemas.sampling.sequence()`."""


DEPTHS = 8
"""Depths to which products are resampled: with fewer, strangers are nearer; with more, models cut in depth farther."""


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """The signature of one checkpoint.

    Attributes:
        vector: float32 `[DIMENSION]`, read-only: unit length, or all zero if every role is missing.
        missing: roles that are zero in the vector, in the order of `ATTENTION`.
    """

    vector: NDArray[np.float32]
    missing: tuple[str, ...]


def signature(curves: Mapping[str, ArrayLike]) -> Signature:
    """The signature `SPEC` of a checkpoint.

    The curve of each of the roles q, k, v, o is z-scored over its layers (population), linearly resampled to `POINTS`
    points over relative depth, and z-scored again; the curves are concatenated and scaled to unit length. The inner
    product of two signatures is the mean of the Pearson correlations of their resampled curves over the roles present.
    A role missing on both sides does not count; one missing on one side counts as uncorrelated: with `a` and `b` roles
    present, the sum of the correlations is divided by `sqrt(a * b)`.

    Args:
        curves: role -> standard deviations `[n_layers]` in layer order; other roles are ignored.

    Returns:
        The vector, and its missing roles: no curve, fewer than two layers, a value that is not finite, or constant
        (before or after resampling).

    Raises:
        ValueError: a curve is not one-dimensional.
    """
    parts = np.zeros((len(ATTENTION), POINTS))
    missing = []
    for part, role in zip(parts, ATTENTION, strict=True):
        scores = _z_scores(curves[role]) if role in curves else None
        resampled = None if scores is None else _z_scores(resample(scores, POINTS))
        if resampled is None:
            missing.append(role)
        else:
            part[:] = resampled
    return Signature(_unit(parts.ravel()), tuple(missing))


def published_score(a: Mapping[str, ArrayLike], b: Mapping[str, ArrayLike]) -> float | None:
    """The std-curve score of arXiv 2507.03014 for one pair.

    Per role: z-score each curve over its layers, interpolate the shorter linearly to the length of the longer,
    Pearson correlation; then the mean over the roles.

    Args:
        a: role -> standard deviations `[n_layers]` in layer order, of one model.
        b: the same for the other model.

    Returns:
        -1 to 1, over those of q, k, v, o for which both have a curve that is not constant; null if there are none.

    Raises:
        ValueError: a curve is not one-dimensional.
    """
    correlations = []
    for role in ATTENTION:
        if role not in a or role not in b:
            continue
        first, second = _z_scores(a[role]), _z_scores(b[role])
        if first is None or second is None:
            continue
        if len(first) != len(second):
            n = max(len(first), len(second))
            first, second = _z_scores(resample(first, n)), _z_scores(resample(second, n))
        if first is not None and second is not None:
            correlations.append(np.mean(first * second))
    # Rounding may move the correlation of a curve with itself past 1.
    return float(np.clip(np.mean(correlations), -1, 1)) if correlations else None


def resample(curve: ArrayLike, n: int) -> NDArray[np.float64]:
    """A curve at `n` evenly spaced relative depths from 0 (first layer) to 1 (last), linearly interpolated.

    Args:
        curve: `[n_layers]`, at least one layer.
        n: number of points, at least 1.

    Returns:
        float64 `[n]`; bit for bit the curve itself if `n` is its length.

    Raises:
        ValueError: the curve is empty or not one-dimensional, or `n` is less than 1.
    """
    values = _curve(curve)
    if len(values) == 0 or n < 1:
        raise ValueError(f"cannot resample {len(values)} layers to {n} points; both must be at least 1")
    return np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(values)), values)


def sketch(
    keys: NDArray[np.int64], values: NDArray[np.float32], dimension: int = SKETCH_DIMENSION
) -> NDArray[np.float32]:
    """A random projection of a sparse vector (Achlioptas 2003: signs keep inner products as well as Gaussians).

    The inner product of two sketches estimates the cosine `c` of the two sparse vectors with a standard error of
    about `(1 - c**2) / sqrt(dimension)`. A sketch of a smaller dimension is the prefix of a larger one, scaled.

    Args:
        keys: int64 `[n]`, each in `0 <= key < N_SKETCH_KEYS`; values of equal keys add up.
        values: float32 `[n]`.
        dimension: 1 to `SKETCH_DIMENSION`.

    Returns:
        float32 `[dimension]`, unit length; zero if there are no values or they project to zero.

    Raises:
        ValueError: the shapes differ, a key or the dimension is out of range, or a value is not finite.
    """
    if keys.ndim != 1 or keys.shape != values.shape:
        raise ValueError(f"a sketch needs one value a key, got keys {keys.shape} and values {values.shape}")
    if not 1 <= dimension <= SKETCH_DIMENSION:
        raise ValueError(f"sketch dimension {dimension} is not in 1 … {SKETCH_DIMENSION}")
    if len(keys) and not 0 <= keys.min() <= keys.max() < N_SKETCH_KEYS:
        raise ValueError(f"sketch keys {keys.min()} … {keys.max()} are not all in 0 … {N_SKETCH_KEYS - 1}")
    if not np.isfinite(values).all():
        raise ValueError("a sketch needs finite values; drop NaN and infinities with their keys first")
    # Scaled to at most 1, because sums of large float32 values could overflow.
    peak = np.abs(values).max(initial=0)
    if peak == 0:
        return np.zeros(dimension, dtype=np.float32)
    return _unit((values / peak) @ _signs()[keys, :dimension].astype(np.float32))


def product_vector(products: ProductSketch | None) -> NDArray[np.float32]:
    """A random projection of the products of a checkpoint's layers, resampled to `DEPTHS` depths.

    The inner product of two estimates the mean correlation of corresponding layers, with a standard error of 1/16.

    Returns:
        float32 `[SKETCH_DIMENSION]`, unit length; zero without products.
    """
    points = np.zeros((2, DEPTHS, ANCHORS * ANCHORS), dtype=np.float32)
    for point, values in zip(points, () if products is None else (products.vo, products.fu), strict=False):
        layers = values.reshape(len(values), ANCHORS * ANCHORS).astype(np.float32)
        layers = layers[np.isfinite(layers).all(axis=1)]
        if len(layers):
            depth = np.linspace(0, len(layers) - 1, DEPTHS)
            above = np.minimum(depth.astype(np.int64) + 1, len(layers) - 1)
            share = (depth - depth.astype(np.int64))[:, np.newaxis]
            point[:] = (1 - share) * layers[depth.astype(np.int64)] + share * layers[above]
    return sketch(np.arange(points.size), points.ravel())


@cache
def _signs() -> NDArray[np.int8]:
    """`[N_SKETCH_KEYS, SKETCH_DIMENSION]` of ±1: bit `j` of the SplitMix64 words from seed 0, `j` counted from the
    lowest bit of word `key * SKETCH_DIMENSION / 64`; a set bit is +1.
    """
    words = _splitmix64(np.arange(N_SKETCH_KEYS * SKETCH_DIMENSION // 64, dtype=np.uint64))
    octets = words.astype("<u8").view(np.uint8)
    bits = np.unpackbits(octets, bitorder="little").reshape(N_SKETCH_KEYS, SKETCH_DIMENSION)
    signs = bits.astype(np.int8) * np.int8(2) - np.int8(1)
    signs.flags.writeable = False
    return signs


def _splitmix64(counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Outputs number `counter` (from 0) of SplitMix64 seeded with 0 (Steele, Lea, Flood 2014)."""
    z = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _curve(curve: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(curve, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"a curve has one value a layer, got an array of shape {values.shape}")
    return values


def _z_scores(curve: ArrayLike) -> NDArray[np.float64] | None:
    """The curve with mean 0 and population variance 1 over the layers.

    Null for fewer than two layers, values that are not finite, or a constant curve.
    """
    values = _curve(curve)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    peak = np.abs(values).max()
    if peak == 0:
        return None
    scaled = values / peak
    if np.ptp(scaled) <= CONSTANT:
        return None
    centred = scaled - scaled.mean()
    z: NDArray[np.float64] = centred / centred.std()
    return z


def _unit(vector: NDArray[np.floating]) -> NDArray[np.float32]:
    """The vector scaled to unit length, as read-only float32; zero stays zero."""
    norm = np.linalg.norm(vector.astype(np.float64))
    unit = (vector / norm if norm > 0 else vector).astype(np.float32)
    unit.flags.writeable = False
    return unit
